"""Measures the user interface in a real browser: first paint, a long run, a large dataset, three pages at once.

    python tests/benchmarks/ui.py [--lines 100000] [--images 5000] [--json FILE]

Everything is made in a temporary folder; the numbers are seconds on this machine unless a row says otherwise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import psutil
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from rich.console import Console
from rich.table import Table

from tests.ui.browser import FLAGS, PATIENCE, Server, find_browser, free_port, open_tab, ready
from tests.ui.large import CONFIG, write_images, write_run

PAGES = 5  # of the gallery that are turned
FRAMES = """async () => {
  const gaps = []; let last = performance.now();
  for (let i = 0; i < 60; i++) {
    window.scrollBy(0, i < 30 ? 40 : -40);
    await new Promise(requestAnimationFrame);
    const now = performance.now(); gaps.push(now - last); last = now;
  }
  return gaps.sort((a, b) => a - b);
}"""
ALL_LOADED = """() => { const all = [...document.querySelectorAll("#gallery img")];
  return all.length > 0 && all.every((image) => image.complete && image.naturalWidth > 0); }"""


@dataclass
class Row:
    what: str
    value: float
    unit: str
    wanted: str = ""


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@contextmanager
def opened(browser: Browser, server: Server) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE * 1000)
    page = context.new_page()
    ready(page, server.url)
    yield page
    context.close()


def first_paint(browser: Browser, server: Server) -> list[Row]:
    """Cold: a new browser profile each time."""
    paints, forms = [], []
    for _ in range(3):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        start = time.perf_counter()
        page.goto(server.url)
        expect(page.locator("#f-run-name input")).to_be_visible()
        expect(page.locator("#problems ul, #problems .good").first).to_be_visible()
        forms.append(time.perf_counter() - start)
        paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000)
        context.close()
    return [
        Row("first paint, cold", median(paints), "s", "< 2"),
        Row("whole form with its config and problems, cold", median(forms), "s"),
    ]


SHOWN = {
    "Noise": "#noise-curve svg", "Dataset": "#look", "Train": "#start", "Runs": "#runs [data-box]", "Try": "#try-draw",
    "Queue": "#queue", "Setup": "#f-run-name input",
}  # fmt: skip


def switches(browser: Browser, server: Server) -> list[Row]:
    """From the click to what the page is about, also after every field of the form was shown."""
    rows = []
    with opened(browser, server) as page:
        for when in ("", ", with every tab of settings opened before"):
            if when:
                for tab in page.locator("#settings [role=tab]").all():
                    tab.click(force=True)
                    page.wait_for_timeout(200)
            times = []
            for name, shown in SHOWN.items():
                button = page.get_by_role("tab", name=name, exact=True).first

                def switch(button: Locator = button, shown: str = shown) -> None:
                    button.click()
                    expect(page.locator(shown).first).to_be_visible()

                times.append(timed(switch))
            rows += [
                Row(f"from page to page, median of {len(times)}{when}", median(times), "s", "< 1"),
                Row(f"from page to page, slowest{when}", max(times), "s", "< 1"),
            ]
    return rows


def long_run(browser: Browser, server: Server, lines: int) -> list[Row]:
    with opened(browser, server) as page:
        curve = page.locator("#curves polyline.clear").first

        def open_train() -> None:
            open_tab(page, "Train")
            expect(curve).to_be_visible()

        shown = timed(open_train)
        gaps = page.evaluate(FRAMES)

        def compare() -> None:
            open_tab(page, "Runs")
            page.locator("#runs [data-box]").first.check()
            expect(page.locator("#runs-curves polyline.clear").first).to_be_visible()

        together = timed(compare)
    name = f"run of {lines:,} metric lines"
    return [
        Row(f"{name}: Train page shows its curves", shown, "s", "< 2"),
        Row(f"{name}: median frame while scrolling", gaps[len(gaps) // 2], "ms"),
        Row(f"{name}: longest frame while scrolling", gaps[-1], "ms"),
        Row(f"{name}: Runs page shows its curves", together, "s", "< 2"),
    ]


def read_history(folder: Path, lines: int) -> Row:
    """The first look at the file by the server, which no page has to wait for a second time."""
    from trainer.journal.run_dir import RunDir
    from ui.views.run import curves_html
    from ui.work.history import history

    run = RunDir(folder / "output" / "long")
    return Row(f"run of {lines:,} metric lines: reading and drawing", timed(lambda: curves_html(history(run))), "s")


def large_dataset(browser: Browser, server: Server, images: int) -> list[Row]:
    name = f"dataset of {images:,} images"
    print("Looking at all images, which is the longest part.", flush=True)
    with opened(browser, server) as page:
        open_tab(page, "Dataset")

        def look() -> None:
            page.locator("#look").click()
            expect(page.locator("#gallery .cell, [data-testid=toast-body]").first).to_be_visible(timeout=600_000)
            expect(page.locator("#gallery .cell").first).to_be_visible(timeout=1000)

        looked = timed(look)
        page.wait_for_function(ALL_LOADED)
        turns = []
        for number in range(2, PAGES + 2):

            def turn(number: int = number) -> None:
                page.locator("#page-forward").click()
                expect(page.locator("#page-where")).to_contain_text(f"page {number} of")
                page.locator("#gallery").evaluate("e => e.querySelectorAll('img').forEach(i => (i.loading = 'eager'))")
                page.wait_for_function(ALL_LOADED)

            turns.append(timed(turn))

        def find() -> None:
            page.locator("#dataset-search input").fill("picture 4321")
            expect(page.locator("#page-where")).to_contain_text("page 1 of 1")

        found = timed(find)
    return [
        Row(f"{name}: looking at all of them", looked, "s"),
        Row(f"{name}: the next page with all thumbnails, median", median(turns), "s", "< 1"),
        Row(f"{name}: the next page, slowest of {PAGES}", max(turns), "s", "< 1"),
        Row(f"{name}: finding one by its caption", found, "s", "< 1"),
    ]


def three_pages(browser: Browser, server: Server, seconds: float = 10.0) -> list[Row]:
    """What the server does while three pages follow a run that stands still."""
    contexts = [browser.new_context() for _ in range(3)]
    for context in contexts:
        page = context.new_page()
        ready(page, server.url)
        open_tab(page, "Train")
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    busy = (after.user + after.system - before.user - before.system) / seconds
    for context in contexts:
        context.close()
    return [
        Row("three pages open: server's share of one core", 100 * busy, "%"),
        Row("three pages open: server's memory", process.memory_info().rss / 2**20, "MB"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as play:
        folder = Path(name)
        (folder / "large.toml").write_text(CONFIG, encoding="utf-8")
        write_run(folder, "long", asked.lines)
        write_images(folder / "photos", asked.images)
        rows = [read_history(folder, asked.lines)]
        print(f"Reading and drawing took {rows[0].value:.2f} s; now in the browser.", flush=True)
        server = Server(folder, free_port())
        browser = play.chromium.launch(executable_path=find_browser(), args=FLAGS)
        expect.set_options(timeout=PATIENCE * 1000)
        try:
            # The long run first: a server that was just started has not read its file yet.
            rows += long_run(browser, server, asked.lines)
            rows += first_paint(browser, server)
            rows += switches(browser, server)
            rows += three_pages(browser, server)
            rows += large_dataset(browser, server, asked.images)
        finally:
            browser.close()
            server.kill()
    show(rows)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


def show(rows: list[Row]) -> None:
    table = Table("what", "measured", "wanted")
    for row in rows:
        digits = 0 if not math.isfinite(row.value) or row.value >= 100 else 1 if row.value >= 10 else 2
        table.add_row(row.what, f"{row.value:.{digits}f} {row.unit}", f"{row.wanted} {row.unit}" if row.wanted else "")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
