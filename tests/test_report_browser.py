"""Reports in a real browser: nothing fails or is fetched, a phone shows all of it, and a keyboard reaches all of it.

Chromium is driven by chromedriver, whose protocol (W3C WebDriver) is JSON over HTTP.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from test_comparison import entry
from test_report import HOSTILE, analysed, facts, made, turned

from hashret.report import page
from hashret.report.comparison import Compared, Side, render_comparison

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver")

TAB, ENTER, SPACE = "\ue004", "\ue007", " "
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage")  # fmt: skip


class Browser:
    """A window of Chromium."""

    def __init__(self, address: str, profile: Path, width: int) -> None:
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({})
        )  # not through a proxy, to this machine
        self._address = address
        options = {
            "binary": CHROMIUM,
            "args": [*FLAGS, f"--user-data-dir={profile}", "--window-size=1280,900"],
            **(
                {"mobileEmulation": {"deviceMetrics": {"width": width, "height": 800, "touch": False}}}
                if width < 500
                else {}
            ),
        }
        logs = {"browser": "ALL", "performance": "ALL"}
        found = self._ask(
            "", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": logs}}}
        )
        self._address += f"/{found['sessionId']}"

    def _ask(self, command: str, values: dict[str, Any] | None = None, method: str = "POST") -> Any:
        content = json.dumps(values or {}).encode() if method == "POST" else None
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + command, content, headers, method=method)
        with self._opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, file: Path) -> None:
        self._ask("/url", {"url": file.as_uri()})

    def run(self, script: str) -> Any:
        return self._ask("/execute/sync", {"script": script, "args": []})

    def press(self, key: str) -> None:
        strokes = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._ask("/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})

    def move_on(self) -> None:
        """Press Tab, and wait until the focus has moved: on a busy machine a key takes a while to arrive."""
        self.run("window.focusWas = document.activeElement")
        self.press(TAB)
        deadline = time.monotonic() + 10
        while not self.run("return document.activeElement !== window.focusWas"):
            assert time.monotonic() < deadline, "Tab moved nothing"
            time.sleep(0.05)

    def complaints(self) -> list[str]:
        return [each["message"] for each in self._ask("/se/log", {"type": "browser"})]

    def fetched(self, file: Path) -> list[str]:
        """What the page had the browser load, itself included."""
        events = [json.loads(each["message"])["message"] for each in self._ask("/se/log", {"type": "performance"})]
        sent = [each["params"] for each in events if each["method"] == "Network.requestWillBeSent"]
        urls = [each["request"]["url"] for each in sent if each["documentURL"] == file.as_uri()]
        return [url for url in urls if not url.startswith("data:")]

    def close(self) -> None:
        self._ask("", method="DELETE")


@pytest.fixture(scope="module")
def driver() -> Iterator[str]:
    """The address at which chromedriver makes windows."""
    command = [str(CHROMEDRIVER), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            port = next(
                found[1] for line in process.stdout if (found := re.search(r"successfully on port (\d+)", line))
            )
            yield f"http://127.0.0.1:{port}/session"
        finally:
            process.terminate()


@pytest.fixture(params=[1280, 390], ids=["desk", "phone"])
def browser(driver: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Browser]:
    window = Browser(driver, tmp_path / "profile", request.param)
    yield window
    window.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with all of its sections, and names that are long, in other scripts and hostile."""
    folder = tmp_path_factory.mktemp("report")
    names = [*HOSTILE, "10 doors", "9 doors", "Ärmel", "zebra"]
    table, encodings = made(folder / "pictures", [names[i % len(names)] for i in range(5 * len(names))])
    named = table.select(np.arange(3))
    named.attributes["neighbours"] = names[1:4]
    html = page.render(facts(findings=["dead bits"], suspects=named), analysed(turned(table), encodings), 6)
    (folder / "report.html").write_text(html, "utf-8", errors="backslashreplace")
    return folder / "report.html"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sides with hostile names, and two models that are looked into."""
    folder = tmp_path_factory.mktemp("comparison")
    file = folder / "compare.html"
    looked_into = [
        (name, analysed(*made(folder, [f"c{i % 4}" for i in range(24)], seed=i))) for i, name in enumerate(HOSTILE[:2])
    ]
    sides = [Side(name, {"lr": i}, [entry(name, [0.1 * i, 0.3], bits=2 ** (i + 3))]) for i, name in enumerate(HOSTILE)]
    html = render_comparison(sides, Compared(["said"], ["warned"]), looked_into, 4)
    file.write_text(html, "utf-8", errors="backslashreplace")
    return file


@pytest.mark.parametrize("which", ["report", "comparison"])
def test_nothing_fails_is_fetched_or_sticks_out(which: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    file: Path = request.getfixturevalue(which)
    browser.open(file)
    browser.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    widths = browser.run("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]
    if "phone" in request.node.name:
        assert widths[1] == 390
    assert browser.run("return [...document.images].every(each => each.complete && each.naturalWidth > 0)")
    twice = """
        const ids = [...document.querySelectorAll('[id]')].map(each => each.id);
        const to = [...document.querySelectorAll('nav a')].map(each => each.hash.slice(1));
        return [ids.filter((each, i) => ids.indexOf(each) < i), to.filter(each => !ids.includes(each)), to.length];
    """
    repeated, nowhere, n_links = browser.run(twice)
    assert (repeated, nowhere) == ([], []) and n_links >= 3
    assert browser.complaints() == []
    assert browser.fetched(file) == [file.as_uri()]


def test_a_page_may_run_nothing_but_its_own_script(driver: str, tmp_path: Path, report: Path) -> None:
    injected = tmp_path / "injected.html"
    script = "<script>document.title = 'broken in'</script><img src=/x onerror=\"document.title = 'broken in'\">"
    injected.write_text(report.read_text("utf-8").replace("<main>", f"<main>{script}", 1), "utf-8")
    window = Browser(driver, tmp_path / "profile", 1280)
    try:
        window.open(injected)
        assert window.run("return document.title") == "run: training report"
        said = window.complaints()
        assert sum("Content Security Policy" in each for each in said) == len(said) >= 2
        assert any("image 'file:///x'" in each for each in said)
    finally:
        window.close()


def column(browser: Browser, number: int) -> list[str]:
    rows = f"[...document.querySelector('table.sortable').tBodies[0].rows].map(row => row.cells[{number}].textContent.trim())"
    found: list[str] = browser.run(f"return {rows}")
    return found


def test_a_keyboard_reaches_and_sorts(browser: Browser, report: Path) -> None:
    browser.open(report)
    here = """
        const on = document.activeElement, style = getComputedStyle(on);
        const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
        return [on.tagName, on.textContent.trim().slice(0, 40), outlined,
            on.closest('table.sortable') ? [...on.closest('tr').cells].indexOf(on.closest('th')) : -1];
    """
    reached = []
    sorted_by = {}
    for _ in range(200):
        browser.move_on()
        tag, text, outlined, place = browser.run(here)
        if tag == "BODY":
            break
        assert outlined, (tag, text)
        reached.append((tag, text))
        if place in (0, 2):
            # Enter sorts; Space sorts the other way round.
            orders = []
            for key in (ENTER, SPACE):
                browser.press(key)
                heads = "[...document.querySelectorAll('table.sortable th[scope=col]')].map(each => each.ariaSort)"
                orders.append((browser.run(f"return {heads}"), column(browser, place)))
            sorted_by[place] = orders
    shown = "[...document.querySelectorAll(each)].filter(e => e.checkVisibility()).length"
    n_folds, n_regions = browser.run(f"return ['summary', '[role=region]'].map(each => {shown})")
    tags = [tag for tag, _ in reached]
    # Regions in folds that are shut are not reached, nor seen.
    assert tags.count("SUMMARY") == n_folds >= 3 and tags.count("DIV") == n_regions >= 8
    assert tags.count("BUTTON") == 7 and tags.count("A") >= 9
    for place, (first, second) in sorted_by.items():
        kinds = [[order for order in heads if order] for heads, _ in (first, second)]
        assert sorted(kinds) == [["ascending"], ["descending"]] and first[0][place] and second[0][place]
        up, down = (values for _, values in sorted((first, second), key=lambda each: each[0][place]))
        assert sorted(up) == sorted(down)
        if place == 2:
            assert [float(value) for value in up] == sorted(map(float, up))
            assert [float(value) for value in down] == sorted(map(float, down), reverse=True)
        else:
            assert up.index("9 doors") < up.index("10 doors") and up.index("Ärmel") < up.index("zebra")
            assert down == up[::-1]
    assert set(sorted_by) == {0, 2} and browser.complaints() == []


def test_it_reads_without_scripts(report: Path) -> None:
    html = report.read_text("utf-8")
    assert "<button" not in html and 'aria-sort="ascending"' in html
    assert report.stat().st_size < 3_000_000
