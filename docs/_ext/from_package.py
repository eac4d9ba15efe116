"""Pages made at build time: methods from their cards, options, references, benchmarks, one page a namespace.

Run before Sphinx reads the sources. A file is written only where its text has changed, so that a second build is quick.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
RESULTS = HERE.parent / "benchmarks" / "results"
FIDELITY = {
    "verified": "agrees with the authors' code or a published figure",
    "published": "follows the paper's equations",
    "reconstruction": "no text or code beyond an abstract",
    "ours": "a method of this package",
}


def setup(app: Any) -> dict[str, Any]:
    """Register the page writers with Sphinx."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir)))
    app.connect("autodoc-skip-member", skip_noise)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(folder: Path) -> None:
    """Write the pages that are made from the package into the folder of the sources."""
    pages = {"methods.md": methods_page(), "references.md": references_page(), "generated/options.md": options_page()}
    pages["benchmarks.md"] = benchmarks_page()
    pages |= {f"api/generated/{name}.rst": text for name, text in api_pages().items()}
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def skip_noise(_app: Any, _what: str, name: str, obj: Any, _skip: bool, _options: Any) -> bool | None:
    """Leave out what every pytree and named tuple has."""
    document = getattr(obj, "__doc__", None) or ""
    return True if name == "replace" or document.startswith("Alias for field number") else None


def api_pages() -> dict[str, str]:
    """A page for each module that ``api/index.md`` lists; a name that two modules offer stands in the first."""
    listed = re.findall(
        r"^generated/(spatialjax\.[\w.]+)$", (HERE / "api" / "index.md").read_text(encoding="utf-8"), re.M
    )
    seen: set[int] = set()
    return {name: api_page(importlib.import_module(name), seen) for name in listed}


def api_page(module: Any, seen: set[int]) -> str:
    """Docstring of a module, a table of its public functions and types, and each of them in full."""
    members = [(name, obj) for name, obj in public_members(module) if id(obj) not in seen]
    seen.update(id(obj) for _, obj in members)
    functions = [name for name, obj in members if not inspect.isclass(obj)]
    types = [name for name, obj in members if inspect.isclass(obj)]
    name = module.__name__
    lines = [
        name,
        "=" * len(name),
        "",
        f".. automodule:: {name}",
        "   :no-members:",
        "",
        f".. currentmodule:: {name}",
        "",
    ]
    for title, group in (("Functions", functions), ("Types", types)):
        if group:
            lines += [f".. rubric:: {title}", "", ".. autosummary::", "   :nosignatures:", ""]
            lines += [f"   {member}" for member in group] + [""]
    lines += [line for member in functions for line in (f".. autofunction:: {member}", "")]
    lines += [line for member in types for line in (f".. autoclass:: {member}", "   :members:", "")]
    return "\n".join(lines)


def public_members(module: Any) -> list[tuple[str, Any]]:
    """Functions and classes of a module: those in ``__all__``, or those that it defines, in the order of the source."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = [(name, getattr(module, name)) for name in names]
    callables = [(name, obj) for name, obj in found if inspect.isclass(obj) or inspect.isroutine(inspect.unwrap(obj))]
    own = module.__name__ if not hasattr(module, "__all__") else "spatialjax"
    return [(name, obj) for name, obj in callables if obj.__module__.startswith(own)]


def cell(text: Any) -> str:
    """Text that may stand in a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def methods_page() -> str:
    """One table a task, then a section for each method with what its card says and its factory."""
    from spatialjax.methods import CARDS, METHODS

    lines = [
        "# Methods",
        "",
        "This page is made from the cards of the methods; `spatialjax methods` prints the same.",
        "",
    ]
    lines += ["**Fidelity**: " + "; ".join(f"*{name}* – {meaning}" for name, meaning in FIDELITY.items()) + ".", ""]
    for task, table in CARDS.items():
        lines += [f"## {task.capitalize()}", "", "| method | what it does | expects | fidelity | reference |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for name, card in table.items():
            source = f"[{card.citation}](references.md#{card.citation})" if card.citation else "–"
            row = (f"[`{name}`](#{task}-{name})", card.summary, card.expects, card.fidelity, source)
            lines.append("| " + " | ".join(cell(value) for value in row) + " |")
        lines.append("")
        for name, card in table.items():
            factory = METHODS[task][name]
            lines += [f"({task}-{name})=", "", f"### {name}", "", card.summary, ""]
            facts = {
                "expects": card.expects,
                "returns": f"`{card.returns}`",
                "default steps": card.default_steps,
                "fidelity": f"{card.fidelity}: {card.evidence}",
                "authors' code": card.licence,
                "notes": card.notes,
            }
            lines += [f"- **{label}**: {' '.join(str(value).split())}" for label, value in facts.items() if value]
            function = getattr(factory, "__wrapped__", factory)
            lines += ["", "```{eval-rst}", f".. autofunction:: {function.__module__}.{function.__name__}", "```", ""]
    return "\n".join(lines)


def options_page() -> str:
    """Arguments and options of each command, from the command line's own help."""
    import typer

    from spatialjax.cli import app

    group = typer.main.get_command(app)
    lines = []
    for name, command in sorted(group.commands.items(), key=lambda item: list(group.commands).index(item[0])):
        lines += [f"## spatialjax {name}", "", " ".join((command.help or "").split("\n\n")[0].split()), ""]
        lines += ["| argument or option | default | meaning |", "| --- | --- | --- |"]
        for parameter in command.params:
            if parameter.name in {"help", "install_completion", "show_completion"}:
                continue
            lines.append("| " + " | ".join(cell(value) for value in option_row(parameter)) + " |")
        lines.append("")
    return "\n".join(lines)


def option_row(parameter: Any) -> tuple[str, str, str]:
    """Name, default and meaning of one parameter of a command."""
    value = parameter.metavar or parameter.name.upper().replace("_", "-")
    if parameter.opts[0].startswith("-"):
        ending = "" if parameter.is_flag else f" {value}"
        name = ", ".join(f"`{flag}{ending}`" for flag in [*parameter.opts, *parameter.secondary_opts])
    else:
        name = f"`{value}`"
    plain = parameter.default if isinstance(parameter.default, str | int | float) else None
    shown = getattr(plain, "value", plain)
    default = "required" if parameter.required else "" if shown in (None, False, "") else f"`{shown}`"
    return name, default, getattr(parameter, "help", None) or ""


def references_page() -> str:
    """The bibliography in reading form, one anchor a key."""
    lines = [
        "# References",
        "",
        "`spatialjax cite METHOD` and `spatialjax.citation(METHOD)` give the BibTeX entry.",
        "",
    ]
    entries = read_bibtex((HERE / "references.bib").read_text(encoding="utf-8"))
    for key, fields in sorted(entries, key=lambda entry: (entry[1]["author"], entry[1]["year"])):
        where = fields.get("journal") or fields.get("booktitle")
        volume = fields.get("volume", "") + (f"({fields['number']})" if "number" in fields else "")
        place = ", ".join(
            part for part in (f"*{where}* {volume}".strip() if where else "", fields.get("pages")) if part
        )
        link = f"[doi:{fields['doi']}](https://doi.org/{fields['doi']})" if "doi" in fields else ""
        authors = fields["author"].replace(" and ", "; ")
        text = [f"{authors} ({fields['year']}).", f"{fields['title']}.", f"{place}." if place else "", link]
        lines += [f"({key})=", "", f"`{key}`", ": " + " ".join(part for part in text if part), ""]
    return "\n".join(lines)


def benchmarks_page() -> str:
    """Every committed result of a benchmark: what was run on what, and its figures in full."""
    lines = [
        "# Benchmarks",
        "",
        "Made from `benchmarks/results/`; each file says which command wrote it.",
        "",
        summary(),
        "",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content.get("rows") or [{"case": name, **row} for name, row in content.get("results", {}).items()]
        lines += [f"## {path.stem}", "", f"`{content.get('command', f'python benchmarks/{path.stem}.py')}`", ""]
        lines += [f"- target, {name}: {target}" for name, target in content.get("targets", {}).items()]
        machine = content.get("context", content)
        lines += [f"- jax {machine['versions']['jax']}, {machine['device']}, {machine['cores']} cores", ""]
        plain = [{name: value for name, value in row.items() if isinstance(value, str | int | float)} for row in rows]
        columns = list(dict.fromkeys(name for row in plain for name in row))
        lines += ["| " + " | ".join(map(cell, columns)) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
        lines += ["| " + " | ".join(cell(row.get(name, "")) for name in columns) + " |" for row in plain] + [""]
    return "\n".join(lines)


def summary() -> str:
    """The alignment benchmark in one paragraph, as the README has it; empty where it was not run."""
    path = RESULTS / "alignment_dlpfc.json"
    if not path.exists():
        return ""
    rows = [row for row in json.loads(path.read_text(encoding="utf-8"))["rows"] if row["method"] == "fields"]
    right = sum(row["parity right"] for row in rows)
    moved = [row["displacement"] for row in rows]
    share = [row["relative accuracy"] for row in rows]
    return (
        "Two neighbouring sections of human cortex (Visium, whole and as partial crops), the second one as given, "
        "rotated, mirrored and rotated, cropped to 60 % and rotated: right side up in "
        f"{right} of {len(rows)} cases; median displacement from the rigid map that fits the cortical layers best "
        f"{min(moved):.2f}–{max(moved):.2f} spot distances; share of spots that land by a spot of their own layer "
        f"{100 * min(share):.1f}–{100 * max(share):.1f} % of what that map reaches. "
        "The layers are used for scoring only."
    )


def read_bibtex(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Key and fields of each entry; braces and accents in plain text."""
    for entry in re.finditer(r"^@\w+\{([^,\s]+),\n(.*?)^\}", text, re.M | re.S):
        pairs = re.findall(r"^\s*(\w+)\s*=\s*\{(.*?)\},?\s*$", entry.group(2), re.M | re.S)
        yield entry.group(1), {name: plain_text(" ".join(value.split())) for name, value in pairs}


def plain_text(value: str) -> str:
    """BibTeX text with its accents composed and its braces removed."""
    import unicodedata

    marks = {"'": "\u0301", "`": "\u0300", '"': "\u0308", "^": "\u0302", "~": "\u0303", "c": "\u0327"}
    pattern = r"\{\\(['`\"^~c])\s*\{?\\?(\w)\}?\}"
    value = re.sub(pattern, lambda m: unicodedata.normalize("NFC", m.group(2) + marks[m.group(1)]), value)
    return re.sub(r"[{}]", "", value).replace("--", "–")
