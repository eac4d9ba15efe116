"""The validators: each refuses what it should, passes what it should, and says how to mend it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax import checks
from spatialjax.checks import InputError, UnitsError


def test_errors_are_value_errors() -> None:
    """A command line can catch InputError alone; a caller that catches ValueError is served too."""
    assert issubclass(InputError, ValueError)
    assert issubclass(UnitsError, InputError)


def test_one_of_proposes_the_nearest() -> None:
    """A typing error is answered with the option that was meant."""
    assert checks.one_of("auto", ("never", "auto", "allow"), "option reflection") == "auto"
    with pytest.raises(InputError, match=r"Unknown method 'pastte': expected one of .*Did you mean 'paste'\?"):
        checks.one_of("pastte", ("fields", "paste", "icp"), "method")


def test_one_of_proposes_nothing_far_and_tells_types_apart() -> None:
    """No proposal for a word that resembles nothing; True is not 1."""
    with pytest.raises(InputError) as caught:
        checks.one_of("zzzz", ("fields", "paste"), "method")
    assert "Did you mean" not in str(caught.value)
    with pytest.raises(InputError):
        checks.one_of(True, (1, 2), "number")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "wide", None, True])
def test_positive_refuses(value: object) -> None:
    """Lengths are finite numbers above 0."""
    with pytest.raises(InputError, match="Expected gap to be a number above 0"):
        checks.positive(value, "gap")


def test_positive_reads_text() -> None:
    """A command line gives numbers as text."""
    assert checks.positive("0.5", "gap") == 0.5


def test_unique_names_counts_names_not_rows() -> None:
    """Two names are repeated here, in five rows."""
    with pytest.raises(InputError, match=r"2 that occur more than once: 'a', 'b'\. Mend it\."):
        checks.unique_names(["a", "b", "a", "b", "a", "c"], what="cell names", where="section 's'", fix="Mend it")
    checks.unique_names(["a", "b"], what="cell names", where="section 's'", fix="Mend it")


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (1e31, "beyond 1e30")])
def test_finite_coordinates_names_cells(value: float, word: str) -> None:
    """The message says what is wrong, in how many cells, and names one."""
    xy = np.zeros((5, 2))
    xy[3, 1] = value
    with pytest.raises(InputError, match=rf"{word}.* in 1 of 5 cells: 'd'"):
        checks.finite_coordinates(xy, cells=list("abcde"), where="section 's'")


def test_shared_places_marks_all_of_a_group() -> None:
    """Each cell of a group at one place is marked, the first one too."""
    xy = np.array([[0.0, 0], [1, 0], [0, 0], [0, 1]])
    assert checks.shared_places(xy).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([[0, 3], [1, 0]]), "counts"),
        (np.array([[0.0, 3.0]]), "counts"),
        (np.array([[True, False]]), "counts"),
        (np.array([[0.0, 0.69, 1.1]]), "log1p"),
        (np.array([[0.5, 20.25]]), "float"),
        (np.array([[-1.0, 2.0]]), "float"),
        (np.array([[-1, 2]]), "float"),
        (np.zeros((3, 2)), "counts"),
    ],
)
@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_array])
def test_value_kind(values: np.ndarray, kind: str, container: type) -> None:
    """The kind follows the values, not the container."""
    assert checks.value_kind(container(values)) == kind


def test_require_counts_names_the_layer() -> None:
    """The message says which layer holds what is needed."""
    log = np.array([[0.0, 0.7]])
    layers = {"scaled": np.array([[-1.0, 1.0]]), "raw": np.array([[0, 1]])}
    with pytest.raises(InputError, match=r"Method 'poisson' needs raw counts.*log-transformed.*give layer='raw'"):
        checks.require_counts(log, what="method 'poisson'", layers=layers)
    with pytest.raises(InputError, match="No layer holds counts"):
        checks.require_counts(log, what="method 'poisson'")
    checks.require_counts(layers["raw"], what="method 'poisson'")


def test_extent() -> None:
    """Ten metres are the limit; the place of the section does not matter."""
    xy = np.array([[0.0, 0.0], [5e6, 0.0]]) + 1e9
    checks.representable_extent(xy, where="section 's'")
    with pytest.raises(InputError, match="2e\\+07 µm in section 's'"):
        checks.representable_extent(xy * 4, where="section 's'")


def test_writable_directory_leaves_nothing(tmp_path: Path) -> None:
    """The check makes neither the folder nor a file in it."""
    assert checks.writable_directory(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []


def test_writable_directory_refuses_a_file(tmp_path: Path) -> None:
    """Neither a file nor a path through a file can be an output folder."""
    file = tmp_path / "notes.txt"
    file.write_text("x")
    for path in (file, file / "out"):
        with pytest.raises(InputError, match="is a file"):
            checks.writable_directory(path)


def test_writable_directory_refuses_what_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that refuses a new file is named with the reason (also for users whose permissions are not asked)."""

    def refuse(**options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"refuses a new file \(Permission denied\)"):
        checks.writable_directory(tmp_path / "out")


def test_listed_is_short() -> None:
    """Long lists of names are cut."""
    assert checks.listed(["a", "b", "c"], limit=2) == "'a', 'b' and 1 more"
    assert checks.listed([]) == "none"
