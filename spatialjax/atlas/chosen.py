"""The method that a user asked for, made with the options that were given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from spatialjax import checks
from spatialjax.checks import InputError


def method_name(task: str, method: str) -> str:
    """Name of the method of a task; the default one for ``"auto"``.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    from spatialjax.methods import CARDS, DEFAULTS

    if method == "auto":
        return DEFAULTS[task]
    return checks.one_of(method, tuple(CARDS[task]), f"method of {task}")


def made(task: str, name: str, options: Mapping[str, Any], *, known: Mapping[str, Any] | None = None) -> Any:
    """The method with its options.

    Parameters
    ----------
    task, name
        Which method.
    options
        Options of its factory, as the user gave them.
    known
        Options that the call itself says; they go to the factory where it takes them, before those of the user.

    Raises
    ------
    InputError
        If an option is not one of the factory, or it refuses its value.
    """
    from spatialjax.methods import METHODS

    factory = METHODS[task][name]
    allowed = list(inspect.signature(factory).parameters)
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise InputError(
            f"Expected options of method {name!r} among {checks.listed(allowed, limit=20)}, found "
            f"{checks.listed(unknown)}."
        )
    given = {key: value for key, value in (known or {}).items() if key in allowed}
    try:
        return factory(**{**options, **given})
    except (ValueError, TypeError) as error:
        raise InputError(f"Expected usable options of method {name!r}: {error}") from error
