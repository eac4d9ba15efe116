"""The rules of the house, checked by reading the sources: floors, allowed imports, sizes, docstrings, cards."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "spatialjax"

GROUND = {"slices", "transforms", "results", "checks", "keys", "tiles", "tables"}
FIRST = {
    "algorithm",
    "preprocess",
    "graphs",
    "nn",
    "losses",
    "markers",
    "histology",
    "propagation",
    "clustering",
    "transport",
    "registration",
    "composition",
    "probability",
    "metrics",
    "simulate",
}
METHODS = {"methods"}
THIRD = {"atlas", "io", "datasets", "pp", "tl", "pl", "viewer", "cli"}
FLOOR = {
    **dict.fromkeys(GROUND, 0),
    **dict.fromkeys(FIRST, 1),
    **dict.fromkeys(METHODS, 2),
    **dict.fromkeys(THIRD, 3),
}

#: What each namespace may import from its own floor. Read downward: no circle (see the test).
SIDEWAYS = {
    "results": {"transforms"},
    "tiles": {"slices"},
    "histology": {"preprocess"},
    "nn": {"graphs"},
    "markers": {"graphs"},
    "propagation": {"graphs", "preprocess"},
    "registration": {"graphs", "preprocess"},
    "transport": {"algorithm", "graphs"},
    "composition": {"algorithm", "probability", "propagation"},
    "probability": {"algorithm"},
    "simulate": {"registration"},
    "pp": {"io"},
    "datasets": {"io"},
    "atlas": {"io", "pl", "datasets", "viewer"},
    "tl": {"atlas"},
    "cli": {"atlas", "io", "datasets", "tl"},
}

#: Libraries with a place of their own; a namespace that is not listed may not name them, not even inside a function.
PLACES = {
    "ott": {"transport"},
    "jraph": {"graphs", "nn"},
    "igraph": {"clustering"},
    "numpyro": {"probability", "methods"},
    "orbax": {"algorithm"},
    "anndata": THIRD,
    "pandas": THIRD,
    "spatialdata": THIRD,
    "h5py": {"io"},
    "zarr": {"io"},
    "matplotlib": {"pl", "atlas"},
    "rich": {"cli", "atlas"},
    "typer": {"cli"},
}
HEAVY = ("anndata", "ott", "numpyro", "matplotlib", "pandas", "orbax.checkpoint", "sklearn")
FORBIDDEN_FILES = {"utils.py", "helpers.py", "base.py", "manager.py", "trainer.py"}
MAX_FILE, MAX_FUNCTION, MAX_POSITIONAL = 400, 60, 3

FILES = sorted(PACKAGE.rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module(path: Path) -> str:
    """Dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def namespace(name: str) -> str:
    """``spatialjax.transport.sinkhorn`` -> ``transport``; the package itself -> ``""``."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, at the top or inside functions."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports in full, found a relative one on line {node.lineno}"
            if node.module == "spatialjax":
                yield from (f"spatialjax.{alias.name}" for alias in node.names)
            else:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(path: Path) -> Iterator[tuple[str, Function, bool]]:
    """Qualified name, node and "is a method" of every function that is not nested in another function."""

    def walk(body: list[ast.stmt], prefix: str, inside: bool) -> Iterator[tuple[str, Function, bool]]:
        for node in body:
            if isinstance(node, Function):
                yield f"{prefix}{node.name}", node, inside
            elif isinstance(node, ast.ClassDef):
                yield from walk(node.body, f"{prefix}{node.name}.", True)
            elif isinstance(node, ast.If | ast.Try):
                yield from walk(node.body, prefix, inside)

    yield from walk(tree(path).body, "", False)


def public(qualified: str) -> bool:
    return not any(part.startswith("_") for part in qualified.split("."))


def code_lines(node: Function) -> int:
    """Lines of a function from ``def`` to its end, docstring and decorators not counted."""
    total = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        total -= first.end_lineno - first.lineno + 1
    return total


def committed_text() -> list[Path]:
    """Every text file of the project that is not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0:
        paths = [ROOT / line for line in listed.stdout.splitlines()]
    else:
        folders = ("spatialjax", "tests", "benchmarks", "docs", "examples", ".ci")
        paths = [p for folder in folders for p in (ROOT / folder).rglob("*")] + [ROOT / "README.md"]
    suffixes = {".py", ".md", ".toml", ".bib", ".json", ".txt", ".css", ".html", ".cfg", ".yml", ".yaml", ""}
    return [p for p in paths if p.is_file() and p.suffix in suffixes]


def test_the_reader_sees_what_it_should(tmp_path: Path) -> None:
    """Imports inside functions, lines of code without the docstring, private names: what the rules below stand on."""
    path = tmp_path / "probe.py"
    path.write_text(
        "import ott.geometry\nfrom spatialjax import graphs\n"
        'def f(a):\n    """Say.\n\n    More.\n    """\n    from jraph import batch\n    return batch\n'
        "class C:\n    def _g(self):\n        return 1\n"
    )
    assert list(imports(path)) == ["ott.geometry", "spatialjax.graphs", "jraph.batch"]
    found = {name: (code_lines(node), method) for name, node, method in functions(path)}
    assert found == {"f": (3, False), "C._g": (2, True)}
    assert public("C.f") and not public("C._g") and not public("_C.f")


def test_every_namespace_has_a_floor() -> None:
    """A new file or folder of the package must be given its floor here."""
    found = {namespace(module(path)) for path in FILES} - {""}
    assert found <= set(FLOOR), f"no floor for {sorted(found - set(FLOOR))}"


def test_a_floor_imports_only_from_lower_floors() -> None:
    """Imports go down, or sideways by the list above."""
    broken = []
    for path in FILES:
        here = namespace(module(path))
        if not here:
            continue
        for name in imports(path):
            there = namespace(name) if name.startswith("spatialjax.") else ""
            if not there or there == here or there not in FLOOR:
                continue
            if FLOOR[there] > FLOOR[here] or (FLOOR[there] == FLOOR[here] and there not in SIDEWAYS.get(here, ())):
                broken.append(f"{module(path)} imports {name}")
    assert not broken, "\n".join(broken)


def test_the_sideways_list_has_no_circle_and_no_unused_line() -> None:
    """The list is an order, and says no more than what the sources do."""
    left = {name: set(SIDEWAYS.get(name, ())) for name in FLOOR}
    while left:
        free = [name for name, needs in left.items() if not needs & set(left)]
        assert free, f"circle among {sorted(left)}"
        for name in free:
            del left[name]
    used = {(namespace(module(p)), namespace(n)) for p in FILES for n in imports(p) if n.startswith("spatialjax.")}
    unused = [f"{here} -> {there}" for here, many in SIDEWAYS.items() for there in many if (here, there) not in used]
    assert not unused, f"remove from the list: {sorted(unused)}"


def test_methods_never_import_methods() -> None:
    """What two methods need moves down to a block; only the table imports them."""
    broken = []
    for path in (PACKAGE / "methods").rglob("*.py"):
        if path.name in {"__init__.py", "card.py"}:
            continue
        for name in imports(path):
            if name.startswith("spatialjax.methods") and not name.startswith("spatialjax.methods.card"):
                broken.append(f"{module(path)} imports {name}")
    assert not broken, "\n".join(broken)


def test_libraries_stay_in_their_places() -> None:
    """ott, jraph, numpyro, anndata and the like are named only where the plan puts them."""
    broken = []
    for path in FILES:
        for name in imports(path):
            library = name.split(".")[0]
            if library in PLACES and namespace(module(path)) not in PLACES[library]:
                broken.append(f"{module(path)} imports {library}")
    assert not broken, "\n".join(sorted(set(broken)))


def test_no_file_with_a_name_that_says_nothing() -> None:
    """utils, helpers, base, manager and trainer are no subjects."""
    assert not [str(p.relative_to(ROOT)) for p in FILES if p.name in FORBIDDEN_FILES]


def test_soft_sizes() -> None:
    """Files, functions (docstring apart) and positional arguments stay small; commands are only called by keyword."""
    large = []
    for path in FILES:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE:
            large.append(f"{module(path)}: {lines} lines")
        for name, node, method in functions(path):
            if code_lines(node) > MAX_FUNCTION:
                large.append(f"{module(path)}.{name}: {code_lines(node)} lines")
            positional = len(node.args.posonlyargs) + len(node.args.args)
            static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
            commands = namespace(module(path)) == "cli"
            if public(name) and positional - (method and not static) > MAX_POSITIONAL and not commands:
                large.append(f"{module(path)}.{name}: {positional} positional arguments")
    assert not large, "\n".join(large)


def test_every_public_name_has_a_docstring() -> None:
    """Modules, public classes, functions and methods say what they are."""
    bare = []
    for path in FILES:
        if ast.get_docstring(tree(path)) is None:
            bare.append(module(path))
        bare += [f"{module(path)}.{n}" for n, node, _ in functions(path) if public(n) and not ast.get_docstring(node)]
        classes = [node for node in tree(path).body if isinstance(node, ast.ClassDef)]
        bare += [f"{module(path)}.{c.name}" for c in classes if public(c.name) and not ast.get_docstring(c)]
    assert not bare, "\n".join(bare)


def test_nothing_prints() -> None:
    """Blocks raise or return; only the command line talks, through its console."""
    calls = []
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                calls.append(f"{module(path)}:{node.lineno}")
    assert not calls, calls


def test_no_random_key_is_made_below_the_front_door() -> None:
    """Blocks and methods take a key: none is made from a fixed seed, numpy's global state is not used."""
    pattern = re.compile(r"\bPRNGKey\(|\brandom\.key\(\s*\d|\bnp\.random\.(?!default_rng|Generator|SeedSequence)\w+")
    broken = []
    for path in FILES:
        if FLOOR.get(namespace(module(path)), 3) == 3:
            continue
        docstrings = {
            line
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            for line in range(node.lineno, node.end_lineno + 1)
        }
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line) and number not in docstrings:
                broken.append(f"{module(path)}:{number}")
    assert not broken, broken


def test_every_method_has_a_card_a_line_in_the_table_and_a_citation() -> None:
    """Each file in methods/<task>/ is in the table, under the name and task on its card, with its BibTeX entry."""
    from spatialjax.methods import CARDS, METHODS

    bib = set(re.findall(r"^@\w+\{([^,\s]+),", (ROOT / "docs" / "references.bib").read_text(encoding="utf-8"), re.M))
    files = {(p.parent.name, p.stem) for p in (PACKAGE / "methods").glob("*/*.py") if p.name != "__init__.py"}
    assert files == {(task, name) for task, table in METHODS.items() for name in table}
    assert {t: set(table) for t, table in METHODS.items()} == {t: set(table) for t, table in CARDS.items()}
    for task, table in CARDS.items():
        for name, card in table.items():
            assert (card.task, card.name) == (task, name)
            assert card.summary and card.evidence and card.licence
            if card.citation is None:
                assert card.fidelity == "ours", f"{name}: a published method needs a citation"
            else:
                assert card.citation in bib, f"{name}: {card.citation!r} is not in docs/references.bib"


def test_every_bibtex_key_is_unique() -> None:
    """One entry a key."""
    keys = re.findall(r"^@\w+\{([^,\s]+),", (ROOT / "docs" / "references.bib").read_text(encoding="utf-8"), re.M)
    assert len(keys) == len(set(keys))


def test_committed_text_names_no_registry_and_no_place_on_one_machine() -> None:
    """No address of a package registry or installer option that points to one, no absolute path of a machine."""
    # In pieces, so that this file does not name them itself.
    registries = ("py" + "pi", "python" + "hosted", "anaconda" + r"\.org", r"/simple/?\b")
    pattern = re.compile(
        rf"https?://[^\s\"']*(?:{'|'.join(registries)})"
        r"|--(?:(?:extra-)?index-url|find-links|trusted-host)"
        r"|(?<![\w.~}])/(?:work|root|home|tmp|Users|mnt)/\w"
    )
    broken = []
    for path in committed_text():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if found := pattern.search(line):
                broken.append(f"{path.relative_to(ROOT)}:{number}: {found.group()}")
    assert not broken, "\n".join(broken)


def test_the_top_level_holds_only_what_it_may() -> None:
    """Everything else has a folder."""
    allowed = {
        "pyproject.toml",
        "spatialjax",
        "tests",
        "benchmarks",
        "docs",
        "examples",
        "README.md",
        ".ci",
        ".gitignore",
    }
    found = {p.relative_to(ROOT).parts[0] for p in committed_text()}
    assert found <= allowed, sorted(found - allowed)


IMPORT_PROBE = """
import json, os, sys, time, warnings
clock = time.perf_counter
start = clock(); import jax; jax_seconds = clock() - start
import numpy as np
def watched():
    return dict(jax.config.values), np.random.get_state()[1].tolist(), dict(os.environ)
before = (*watched(), list(warnings.filters))
start = clock(); import spatialjax; own_seconds = clock() - start
loaded = [name for name in {heavy!r} if name in sys.modules]
filters_changed = list(warnings.filters) != before[-1]
backend = bool(jax._src.xla_bridge._backends)
import importlib
for name in {light!r}:
    importlib.import_module("spatialjax." + name)
print(json.dumps(dict(
    jax_seconds=jax_seconds, own_seconds=own_seconds, loaded=loaded,
    loaded_light=[name for name in {heavy_light!r} if name in sys.modules],
    arrays=len(jax.live_arrays()), backend=backend,
    changed=[n for n, a, b in zip(("jax flags", "numpy random state", "environment"), before, watched()) if a != b]
            + ["warning filters"] * filters_changed,
)))
"""


@pytest.fixture(scope="module")
def probe() -> dict:
    """What a fresh interpreter reports about importing the package and then every light namespace."""
    light = sorted(n for n in (GROUND | FIRST | METHODS) if (PACKAGE / n).is_dir() or (PACKAGE / f"{n}.py").exists())
    code = IMPORT_PROBE.format(heavy=HEAVY, light=light, heavy_light=("anndata", "ott", "numpyro", "matplotlib"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_package_is_light(probe: dict) -> None:
    """``import spatialjax`` loads none of the heavy libraries; the time is shown, not judged."""
    print(f"\nimport jax {probe['jax_seconds']:.2f} s, then import spatialjax {probe['own_seconds']:.3f} s")
    assert probe["loaded"] == []


def test_importing_blocks_and_methods_loads_no_front_door_library(probe: dict) -> None:
    """Every namespace below the front door comes without anndata, ott, numpyro and matplotlib."""
    assert probe["loaded_light"] == []


def test_importing_touches_nothing(probe: dict) -> None:
    """No array on a device, no flag, random state or variable changed, not even by the blocks.

    Devices and warning filters are looked at after the package alone: flax starts a device, scipy sets filters.
    """
    assert probe["arrays"] == 0
    assert probe["changed"] == []
    assert not probe["backend"]
