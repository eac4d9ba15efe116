"""What the documentation says is what the package has: names, commands, options, parameters, examples in docstrings."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "spatialjax"
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "generated" not in p.parts)]
FILES = sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def blocks(language: str) -> list[Any]:
    """Every fenced block of a language in the pages, as test parameters."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.M | re.S)
    found = [(page, block) for page in PAGES for block in pattern.findall(page.read_text(encoding="utf-8"))]
    return [pytest.param(block, id=f"{page.stem}-{number}") for number, (page, block) in enumerate(found)]


@pytest.fixture(scope="module")
def from_package() -> Any:
    """The page writers of the documentation."""
    spec = importlib.util.spec_from_file_location("from_package", ROOT / "docs" / "_ext" / "from_package.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_examples() -> list[Path]:
    """Sources with an example that is run (not marked with ``# doctest: +SKIP``)."""
    return [p for p in FILES if re.search(r">>> (?!.*\+SKIP)", p.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", with_examples(), ids=dotted)
def test_examples_in_docstrings(path: Path) -> None:
    """Every example in a docstring gives what it shows."""
    module = importlib.import_module(dotted(path))
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


def parameters_of(document: str) -> list[str]:
    """Names in the Parameters section of a numpydoc docstring."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", document, re.M | re.S)
    names = re.findall(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)$", section.group(1), re.M) if section else []
    return [name.lstrip("*") for line in names for name in line.split(", ")]


def test_documented_parameters_are_those_of_the_signature() -> None:
    """A Parameters section names every argument of its function and no other, and gives no types."""
    wrong = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            document = ast.get_docstring(node) or ""
            if "Parameters\n---" not in document:
                continue
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            expected = [a.arg for a in every if a is not None and a.arg not in {"self", "cls"}]
            if sorted(parameters_of(document)) != sorted(expected):
                wrong.append(f"{dotted(path)}.{node.name}: documents {parameters_of(document)}, takes {expected}")
    assert not wrong, "\n".join(wrong)


def test_the_api_page_lists_every_namespace() -> None:
    """A namespace that users may import has its page."""
    import spatialjax

    text = (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^generated/spatialjax\.([\w.]+)$", text, re.M))
    assert set(spatialjax._NAMESPACES) <= listed
    for name in listed:
        module = importlib.import_module(f"spatialjax.{name}")
        assert (module.__doc__ or "").strip(), name


def test_every_name_of_the_package_resolves() -> None:
    """What ``__all__`` promises is there, at the top and in every namespace."""
    import spatialjax

    for name in spatialjax.__all__:
        assert getattr(spatialjax, name) is not None
    for path in FILES:
        module = importlib.import_module(dotted(path))
        missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]
        assert not missing, (dotted(path), missing)


def test_the_table_of_methods_is_complete(from_package: Any) -> None:
    """Each card has its row and its section."""
    from spatialjax.methods import CARDS

    page = from_package.methods_page()
    for task, table in CARDS.items():
        for name, card in table.items():
            assert f"({task}-{name})=" in page and from_package.cell(card.summary) in page
            if card.citation:
                assert f"references.md#{card.citation}" in page


def test_the_references_are_complete_and_readable(from_package: Any) -> None:
    """Each BibTeX entry has an anchor, authors, a year and a title, with no TeX left over."""
    text = (ROOT / "docs" / "references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{([^,\s]+),", text, re.M)
    page = from_package.references_page()
    assert len(list(from_package.read_bibtex(text))) == len(keys)
    assert all(f"({key})=" in page for key in keys)
    assert not re.search(r"[{}\\]", page)


def test_the_figures_in_the_readme_are_those_of_the_benchmark(from_package: Any) -> None:
    """The paragraph of the README is the one that the committed results give; copy it from here when they change."""
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert from_package.summary() in readme, f"put into README.md:\n\n{from_package.summary()}"


def test_every_committed_result_has_its_table(from_package: Any) -> None:
    """Each file of results has a section with the command that wrote it."""
    page = from_package.benchmarks_page()
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert f"## {path.stem}\n\n`python benchmarks/{path.stem}.py" in page


def test_every_citation_is_printed() -> None:
    """``citation`` gives the BibTeX entry of each published method."""
    import spatialjax
    from spatialjax.methods import CARDS

    for table in CARDS.values():
        for name, card in table.items():
            if card.citation:
                assert card.citation in spatialjax.citation(name)


def commands() -> dict[str, set[str]]:
    """Options of each command of the command line."""
    import typer

    from spatialjax.cli import app

    group = typer.main.get_command(app)
    return {
        name: {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()
    }


def test_the_page_of_options_is_complete(from_package: Any) -> None:
    """Each command has its section, each option its row with a meaning."""
    page = from_package.options_page()
    for name, options in commands().items():
        section = page.split(f"## spatialjax {name}\n")[1].split("\n## ")[0]
        for option in options:
            if option.startswith("--") and option != "--help":
                row = next(line for line in section.splitlines() if f"`{option}" in line)
                assert row.rstrip(" |").count("|") >= 2 and row.split("|")[-2].strip(), f"{name} {option} has no help"


@pytest.mark.parametrize("block", blocks("bash"))
def test_commands_in_the_pages_exist(block: str) -> None:
    """A command line that a page shows names a command and options that there are."""
    known = commands()
    for line in block.replace("\\\n", " ").splitlines():
        for part in line.split("#")[0].split("&&"):
            words = shlex.split(part)
            if words[:1] != ["spatialjax"]:
                continue
            assert words[1] in known, part
            used = {word.split("=")[0] for word in words if word.startswith("--")}
            assert used <= known[words[1]] | {"--help"}, part


@pytest.mark.parametrize("block", blocks("python"))
def test_python_in_the_pages_is_valid(block: str) -> None:
    """Python that a page shows can be parsed, its imports work and its names in the package exist."""
    import spatialjax

    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("spatialjax"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
    for name in set(re.findall(r"\bsj((?:\.\w+)+)\(", block)):
        value = spatialjax
        for part in name[1:].split("."):
            value = getattr(value, part)


def test_the_two_commands_of_the_readme_are_what_ci_runs() -> None:
    """Installing and the demonstration, installing for development and the tests: verbatim in the script."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in (
        "python -m pip install . && spatialjax demo",
        'python -m pip install -e ".[test]" && python -m pytest',
    ):
        assert command in readme
        assert all(part in script for part in command.split(" && "))


def test_the_changelog_has_this_version() -> None:
    """A version is released with its entry."""
    import spatialjax

    assert f"## {spatialjax.__version__} " in (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")
