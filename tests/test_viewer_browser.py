"""The interactive page in Debian's chromium: every control by mouse and keys, judged by pixels and by what it says."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_viewer import EVIL, NAMES, tissue

from spatialjax.viewer import write_viewer

CHROMIUM = next((found for n in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(n))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install Debian's package to drive the page")

BLUE, ORANGE, WHITE = [0, 114, 178], [230, 159, 0], [255, 255, 255]
CELLS = 60  # a section
FIRST, SECOND = 13, 43  # cells of the first section and of either domain, away from the axes
ENTER, LEFT, RIGHT = ("Enter", 13), ("ArrowLeft", 37), ("ArrowRight", 39)


class Browser:
    """Debian's chromium over its DevTools socket: mouse, keys, pictures, and everything the page asked for."""

    def __init__(self, folder: Path) -> None:
        websocket = pytest.importorskip("websocket", reason="websocket-client is not installed: pip install .[test]")
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--window-size=1100,760",
        ]
        options += ["--remote-debugging-port=0", "--remote-allow-origins=*", "--enable-unsafe-swiftshader"]
        command = [CHROMIUM, *options, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, start_new_session=True, **quiet)
        self.folder, self.number, self.events = folder, 0, []
        try:
            port = self.wait_for(self._port)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=20) as answer:
                tabs = json.load(answer)
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            self.socket = websocket.create_connection(address, timeout=60)
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        except BaseException:
            self.close()
            raise

    def _port(self) -> str | None:
        path = self.folder / "profile" / "DevToolsActivePort"
        return path.read_text().split()[0] if path.exists() and path.read_text().strip() else None

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def js(self, code: str) -> Any:
        found = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, what: Callable[[], Any], seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < end, "the browser did not get there in time"
            time.sleep(0.05)
        return found

    def open(self, path: Path) -> None:
        self.call("Page.navigate", url=path.as_uri())
        self.wait_for(lambda: self.js(f"location.href === {json.dumps(path.as_uri())} && document.body?.dataset.ready"))
        self.settle()

    def settle(self) -> None:
        """Let what a click started come to the screen."""
        self.js("new Promise(f => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(f)), 60))")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, selector: str) -> None:
        x, y = self.js(
            f"(e => {{ e.scrollIntoView({{block: 'nearest'}}); const r = e.getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, button="left", clickCount=1)
        self.mouse("mouseReleased", x, y, button="left", clickCount=1)
        self.settle()

    def press(self, key: str, code: int, times: int = 1) -> None:
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)
        self.settle()

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start, button="left", buttons=1, clickCount=1)
        for t in (0.3, 0.6, 1.0):
            x, y = (a + t * (b - a) for a, b in zip(start, end, strict=True))
            self.mouse("mouseMoved", x, y, button="left", buttons=1)
        self.mouse("mouseReleased", *end, button="left", clickCount=1)
        self.settle()

    def picture(self) -> np.ndarray:
        from matplotlib.image import imread

        data = base64.b64decode(self.call("Page.captureScreenshot")["data"])
        return np.rint(imread(io.BytesIO(data))[..., :3] * 255).astype(int)

    def text(self, selector: str) -> str:
        return self.js(f"document.querySelector({json.dumps(selector)}).innerText")

    def pixel_of(self, cell: int) -> tuple[float, float]:
        """Where a cell of the page (sorted by section) is on the screen."""
        code = "(i => SJ.scene.projector()(...SJ.scene.toScene(SJ.scene.place(i)), [0, 0, 0]))"
        x, y, _ = self.js(f"{code}({cell})")
        return x, y

    def colour_of(self, cell: int) -> list[int]:
        x, y = self.pixel_of(cell)
        return self.picture()[int(y), int(x)].tolist()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages: the usual one (its second section is not placed, 10 of 12 genes), and one with hardly anything."""
    folder = tmp_path_factory.mktemp("pages")
    bare = tissue(genes=0, names=("only",))
    bare.obs = bare.obs[["slice", "placed"]]
    del bare.obsm["spatial3d_sd"]
    lost = tissue(unplaced=(0, 1, 2, 3))
    del lost.obsm["spatial"]
    return {
        "usual": write_viewer(tissue(unplaced=(1,)), folder / "usual.html", max_genes=10, genes=[EVIL]),
        "bare": write_viewer(bare, folder / "bare.html"),
        "lost": write_viewer(lost, folder / "lost.html"),
    }


@pytest.fixture
def seen(browser: Browser, files: dict[str, Path]) -> Browser:
    """The usual page freshly opened, seen from above."""
    browser.open(files["usual"])
    browser.click("[data-view=above]")
    return browser


def test_cells_stand_where_they_are_in_the_colour_of_their_domain(seen: Browser) -> None:
    """Pixels of single cells; the unplaced section is not drawn, and that is said."""
    assert seen.colour_of(FIRST) == BLUE
    assert seen.colour_of(SECOND) == ORANGE
    assert "60 of 240 cells have no place" in seen.text("#notes")
    assert seen.js("document.querySelector('#section-1').disabled") is True
    assert "240 cells · 4 sections · 10 of 12 genes" in seen.text("#facts")
    (x, y), (right, _), (_, below) = (seen.pixel_of(cell) for cell in (FIRST, FIRST + 10, FIRST + 1))
    assert right > x + 10 and below > y + 10  # x to the right and y down, as in the sections' own pictures


def test_a_gene_is_found_by_typing_and_colours_the_cells(seen: Browser) -> None:
    """Completion, Enter, colour bar with unit; high and low cells in the two ends of the scale."""
    seen.click("#gene")
    seen.call("Input.insertText", text="gene0")
    seen.settle()
    assert "Gene0" in seen.text("#matches")
    seen.press(*ENTER)
    assert "Gene0, log(1 + value)" in seen.text("#legend")
    low, high = sum(seen.colour_of(FIRST)), sum(seen.colour_of(SECOND))
    assert low > 500 and high < 150
    assert seen.js("document.querySelector('#gene').value") == "Gene0"


def test_a_gene_that_the_page_lacks_is_named_and_cannot_be_chosen(seen: Browser) -> None:
    """It is in the atlas, so the search says so; choosing it changes nothing."""
    held = seen.js("JSON.parse(document.getElementById('atlas').textContent).genes.held.map(g => g.name)")
    lacking = next(f"Gene{i}" for i in range(2, 12) if f"Gene{i}" not in held)
    before = seen.text("#legend")
    seen.click("#gene")
    seen.call("Input.insertText", text=lacking)
    seen.settle()
    assert "not in this page" in seen.text("#matches")
    seen.press(*ENTER)
    assert seen.text("#legend") == before
    seen.press("Escape", 27)


def test_names_are_text_wherever_they_show(seen: Browser) -> None:
    """Sections, labels, genes and the cell under the mouse: shown as they are, nothing runs, no element is made."""
    assert EVIL in seen.text("#sections") and NAMES[1] in seen.text("#sections")
    column = seen.js("[...document.querySelectorAll('#colour option')].find(o => o.textContent === 'kind').value")
    seen.js(
        f"(e => {{ e.value = {json.dumps(column)}; e.dispatchEvent(new Event('change')); }})"
        "(document.querySelector('#colour'))"
    )
    seen.settle()
    assert EVIL in seen.text("#legend") and "no value" in seen.text("#legend")
    seen.click("#gene")
    seen.call("Input.insertText", text="<img")
    seen.settle()
    assert EVIL in seen.text("#matches")
    seen.press(*ENTER)
    assert EVIL in seen.text("#legend")
    seen.mouse("mouseMoved", *seen.pixel_of(SECOND))
    seen.settle()
    tip = seen.text("#tip")
    assert tip.startswith(f"{EVIL} 172") and f"section {EVIL}" in tip and "x 1,200, y 1,150, z 0 µm" in tip
    assert seen.js("window.hit") is None and seen.js("document.images.length") == 0


def test_before_and_after(seen: Browser) -> None:
    """As given: cells at the coordinates of their files in µm, the unplaced section appears; and back again."""
    seen.click("#given")
    given = tissue().obsm["spatial"] * 0.5
    np.testing.assert_allclose(seen.js(f"SJ.scene.place({CELLS})"), [*given[1], 100], atol=1e-2)
    assert seen.js("SJ.scene.isShown(1)") is True
    seen.click("#placed")
    np.testing.assert_allclose(seen.js("SJ.scene.place(0)"), [1000, 1000, 0], atol=1e-2)
    assert seen.js("SJ.scene.isShown(1)") is False


def test_sections_hide_and_show(seen: Browser) -> None:
    """Their cells leave the picture and come back; hiding all is said in words."""
    assert seen.colour_of(FIRST) == BLUE
    seen.click("#none")
    assert seen.colour_of(FIRST) == WHITE
    assert "All sections are hidden" in seen.text("#message")
    seen.click("#section-0")
    seen.click("[data-view=above]")
    assert seen.colour_of(FIRST) == BLUE
    seen.click("#all")
    seen.click("#sections li:nth-child(3) button")
    assert [seen.js(f"SJ.scene.isShown({i})") for i in range(4)] == [False, False, True, False]


def test_the_slab_cuts_by_height(seen: Browser) -> None:
    """Above z = 150 µm the first section is gone from the picture and from under the mouse."""
    seen.click("#sections li:nth-child(1) button")
    x, y = seen.pixel_of(FIRST)
    assert seen.js(f"SJ.scene.pick({x}, {y})") == FIRST and seen.colour_of(FIRST) == BLUE
    seen.click("#low")  # the middle: 150 of 0 to 300 µm
    assert 140 <= float(seen.text("#lowOut").split()[0]) <= 160
    assert seen.js(f"SJ.scene.pick({x}, {y})") == -1
    assert seen.colour_of(FIRST) == WHITE


def test_heights_stretch_without_changing_the_numbers(seen: Browser) -> None:
    """Twice the factor, twice the drawn height; the cell's own z stays."""
    seen.click("[data-view=front]")
    drawn = lambda: abs(seen.pixel_of(0)[1] - seen.pixel_of(3 * CELLS)[1])
    before, factor = drawn(), seen.text("#stretchOut")
    seen.js("document.querySelector('#stretch').focus()")
    seen.press(*RIGHT)
    assert seen.text("#stretchOut") != factor
    assert drawn() > 1.5 * before
    assert seen.js(f"SJ.scene.place({3 * CELLS})")[2] == pytest.approx(300)


def test_drag_turns_and_wheel_zooms(seen: Browser) -> None:
    """The same cell is elsewhere after a drag; two cells are further apart after the wheel."""
    apart = lambda: np.hypot(*np.subtract(seen.pixel_of(0), seen.pixel_of(CELLS - 1)))
    first = seen.pixel_of(0)
    seen.drag((400, 380), (520, 300))
    assert np.hypot(*np.subtract(first, seen.pixel_of(0))) > 10
    before = apart()
    seen.mouse("mouseWheel", 400, 380, deltaX=0, deltaY=-240)
    seen.settle()
    assert apart() > 1.05 * before


def test_a_category_is_seen_alone(seen: Browser) -> None:
    """The other domain fades; a second click brings it back."""
    seen.click("#legend li:nth-child(1) button")
    assert seen.colour_of(FIRST) == BLUE and seen.colour_of(SECOND) != ORANGE
    seen.click("#legend li:nth-child(1) button")
    assert seen.colour_of(SECOND) == ORANGE


def test_light_and_dark(seen: Browser) -> None:
    """The whole page changes, the scene too."""
    before = seen.picture()
    seen.click("#theme")
    after = seen.picture()
    assert before[300, 20].tolist() == WHITE
    assert after[300, 20].sum() < 120 and after[20, -40].sum() < 150


def test_the_picture_is_saved_with_axes_and_legend(seen: Browser) -> None:
    """A PNG twice as fine as the screen, with both domains' colours, and more than the cells in it."""
    from matplotlib.image import imread

    target = seen.folder / "tissue.png"
    target.unlink(missing_ok=True)
    seen.click("#png")
    seen.wait_for(lambda: target.exists() and target.stat().st_size > 1000)
    picture = np.rint(imread(target)[..., :3] * 255).astype(int)
    width = seen.js("document.querySelector('#stage').clientWidth")
    assert picture.shape[1] == 2 * width
    for colour in (BLUE, ORANGE):
        assert (picture == colour).all(-1).sum() > 200
    legend = picture[: 2 * 80, : 2 * 100]
    assert (legend == BLUE).all(-1).any() and (legend.sum(-1) < 250).any()


def test_nothing_is_asked_of_the_network_and_nothing_fails(seen: Browser) -> None:
    """Over all that was done: no request but for the file itself, no error of the page, no block by its policy."""
    seen.settle()
    asked = [e["params"]["request"]["url"] for e in seen.events if e["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
    assert all(url.endswith(".html") for url in asked if url.startswith("file"))
    errors = [e for e in seen.events if e["method"] == "Runtime.exceptionThrown"]
    errors += [e for e in seen.events if e["method"] == "Log.entryAdded" and e["params"]["entry"]["level"] == "error"]
    assert not errors


def test_one_section_without_genes_and_labels(browser: Browser, files: dict[str, Path]) -> None:
    """It opens, is coloured by section, and says that there are no genes."""
    browser.open(files["bare"])
    assert browser.js("document.body.dataset.ready") == "yes"
    assert "only" in browser.text("#legend") and "The atlas has no genes." in browser.text("#geneFacts")
    assert browser.js("document.querySelector('#gene').disabled") is True
    assert browser.js("document.querySelector('#low').disabled") is True
    browser.click("[data-view=above]")
    assert browser.colour_of(FIRST) == BLUE


def test_nothing_placed_and_nothing_given(browser: Browser, files: dict[str, Path]) -> None:
    """An empty scene says why it is empty."""
    browser.open(files["lost"])
    assert browser.js("document.body.dataset.ready") == "yes"
    assert "No section has a place in the tissue" in browser.text("#message")
    assert browser.js("document.querySelector('#given').disabled") is True
