"""One small reconstruction that the tests of the main job share."""

from __future__ import annotations

from typing import Any

import pytest

ANGLES = (0.0, 0.7, 2.5)


@pytest.fixture(scope="session")
def three_sections(make_adatas: Any) -> list[Any]:
    """Three sections of one tissue, turned, with names that matplotlib, HTML and file systems would trip over."""
    return make_adatas(3, angles=ANGLES)


@pytest.fixture(scope="session")
def section_names() -> list[str]:
    """Names with spaces, slashes, dollars and markup."""
    return ["A 1/left", "<b>B</b> $2", "C"]


@pytest.fixture(scope="module", autouse=True)
def _optimized(optimized_module: None) -> None:
    """A reconstruction runs longer than it compiles, and many run the same programs."""


@pytest.fixture(scope="session")
def reconstruction(three_sections: list[Any], section_names: list[str], optimized: Any) -> Any:
    """The three sections, reconstructed once."""
    import spatialjax as sj

    with optimized():
        return sj.tl.reconstruct(
            three_sections, names=section_names, units="um", gap=20, n_domains=3, seed=1, progress=False
        )
