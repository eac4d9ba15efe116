"""Progress as a user sees it."""

from __future__ import annotations

import io

from rich.console import Console

from spatialjax.atlas import console
from spatialjax.atlas.watch import Watch


def _shown(*, terminal: bool) -> str:
    output = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with console.progress(output) as listener:
        watch = Watch(listener)
        with watch.step("pairs", "7 pairs [of] names"):
            watch.say("compiling", state="compiling")
            watch.say("compiling", state="compiling")
            watch.say("weighing pair 3 of 7", share=3 / 7)
    return output.file.getvalue()


def test_plain_output_is_one_line_an_event() -> None:
    """In a file or a pipe: start, one word on compiling, end with the time; names with brackets come through."""
    lines = _shown(terminal=False).splitlines()
    assert lines[0] == "pairs: 7 pairs [of] names"
    assert [line for line in lines if "compiling" in line] == ["pairs: compiling (once for each size of section)"]
    assert lines[-1].startswith("pairs: done in ")
    assert len(lines) == 3


def test_terminal_shows_a_bar_for_each_step() -> None:
    """On a terminal the last message stays beside a finished bar."""
    shown = _shown(terminal=True)
    assert "pairs" in shown
    assert "weighing pair 3 of 7" in shown
    assert "✓" in shown


def test_device_is_named_in_words() -> None:
    """The line that every run starts with."""
    assert console.device_line().startswith("running on ")
