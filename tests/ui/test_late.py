"""Every answer of the server comes seconds late, and the person goes on clicking: whatever was clicked last wins."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.ui.browser import Server, free_port, open_tab, pick
from tests.ui.conftest import CONFIG
from tests.ui.large import write_run
from ui.work import queue as queues
from ui.work.queue import Queue, QueuedRun
from ui.workspace import Workspace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configs, three finished runs, a queue that is paused."""
    place = tmp_path_factory.mktemp("late")
    for name, steps in (("one", 11), ("two", 22)):
        (place / f"{name}.toml").write_text(CONFIG.format(name=name, steps=steps), encoding="utf-8")
    for name in ("a", "b", "c"):
        write_run(place, name, 60)
    (place / "photos").mkdir()
    for name in ("a", "b", "c", "d"):
        Image.new("RGB", (64, 64), "red").save(place / "photos" / f"{name}.png")
        (place / "photos" / f"{name}.txt").write_text(f"a photo of {name}\n", encoding="utf-8")
    waiting = [QueuedRun(id=name, name=name, source="one.toml") for name in ("first", "second", "third")]
    queue = Queue(items=waiting, paused=True)
    (place / ".immiscible").mkdir()
    (place / ".immiscible" / "queue.json").write_text(queue.model_dump_json(), encoding="utf-8")
    (place / ".immiscible" / "recent.json").write_text(json.dumps(["one.toml"]), encoding="utf-8")
    return place


@pytest.fixture
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    server = Server(folder, free_port(), program=("tests.ui.slow_server",))
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    found = context.new_page()
    found.goto(server.url)
    yield found
    context.close()
    server.kill()


def quick_type(page: Page, control: str, text: str) -> None:
    """As a person types: the field must take the focus, which it does not while it waits for another config."""
    field = page.locator(f"#{control} input").first
    field.click()
    field.press("Control+a")
    page.keyboard.type(text)
    page.keyboard.press("Tab")


def watch(page: Page, selector: str) -> None:
    """From now on this must be there, also in between."""
    page.evaluate(
        """(selector) => { window.undone = 0;
        window.watching = setInterval(() => { window.undone += !document.querySelector(selector); }, 20); }""",
        selector,
    )


def undone(page: Page) -> int:
    """How often it was not."""
    return int(page.evaluate("() => { clearInterval(window.watching); return window.undone; }"))


def settled(page: Page) -> None:
    """Nothing is on its way any more."""
    page.wait_for_timeout(100)  # what follows by itself is sent
    page.wait_for_function("window.trainerAnswers.waiting() === 0")


def test_whatever_was_clicked_last_wins(page: Page, folder: Path) -> None:
    expect(page.locator("#f-run-name input")).to_have_value("one")

    # The form: two numbers of candidates, two fields, another config and a field of that.
    page.locator("#oversampling").get_by_label("64").click()
    page.locator("#oversampling").get_by_label("256").click()
    watch(page, "#oversampling label.selected input[value='256']")
    quick_type(page, "f-training-steps", "7")
    quick_type(page, "f-lora-rank", "9")
    quick_type(page, "f-training-steps", "8")
    settled(page)
    assert undone(page) == 0
    page.locator("#save").click()
    quick_type(page, "f-lora-rank", "10")
    settled(page)
    written = tomllib.loads((folder / "one.toml").read_text())
    assert (written["training"]["steps"], written["lora"]["rank"]) == (8, 9)
    assert written["noise"]["oversampling"] == 256
    expect(page.locator("#file-state")).to_have_text("unsaved changes")
    page.once("dialog", lambda dialog: dialog.accept())
    pick(page, "file", "two.toml")
    quick_type(page, "f-training-steps", "23")
    settled(page)
    page.locator("#save").click()
    settled(page)
    written = tomllib.loads((folder / "two.toml").read_text())
    assert written["run"]["name"] == "two"
    assert written["training"]["steps"] == 23
    assert tomllib.loads((folder / "one.toml").read_text())["training"]["steps"] == 8

    # The noise: its picture follows the last number.
    open_tab(page, "Noise")
    quick_type(page, "f-noise-oversampling-k", "32")
    quick_type(page, "f-noise-oversampling-k", "512")
    expect(page.locator("#noise-words")).to_contain_text("k = 512")
    settled(page)
    expect(page.locator("#noise-words")).to_contain_text("k = 512")

    # Images: what is foreseen follows the last tick, though answers to the earlier ones are asked about meanwhile.
    open_tab(page, "Dataset")
    page.locator("#look").click()
    ticks = page.locator("#gallery [data-box]")
    expect(ticks).to_have_count(4)
    for place in range(2):
        ticks.nth(place).check()  # the look has still to tell that it has ended
    quick_type(page, "tag-find", "new")
    for count in (2, 3, 4, 1):
        for place in range(4):
            ticks.nth(place).set_checked(place < count)
        expect(page.locator("#tag-preview")).to_contain_text(f"{count} of {count} captions would change")
        settled(page)
        expect(page.locator("#tag-preview")).to_contain_text(f"{count} of {count} captions would change")

    # Runs: ticks stay, and what is shown belongs to them.
    open_tab(page, "Runs")
    box = "#runs [data-box='output/{}']"
    expect(page.locator(box.format("a"))).to_be_visible()
    page.locator("#refresh-runs").click()
    for name in ("a", "b", "c"):
        page.locator(box.format(name)).check()
    watch(page, box.format("b") + ":checked")
    page.locator(box.format("a")).uncheck()
    settled(page)
    assert [page.locator(box.format(name)).is_checked() for name in ("a", "b", "c")] == [False, True, True]
    assert undone(page) == 0
    legend = page.locator("#runs-curves .legend").first
    expect(legend).to_contain_text("output/b")
    expect(legend).to_contain_text("output/c")
    expect(legend).not_to_contain_text("output/a")

    # The run that is followed, chosen twice while the page looks at it each second.
    open_tab(page, "Train")
    for name in ("output/a", "output/b"):
        pick(page, "run", name)
    expect(page.locator("#run-state .run-head b")).to_have_text("output/b")
    page.wait_for_timeout(2500)  # further looks
    expect(page.locator("#run-state .run-head b")).to_have_text("output/b")
    expect(page.locator("#run input")).to_have_value("output/b")

    # The queue: each click counts.
    open_tab(page, "Queue")
    page.get_by_label("Down: first").click()
    page.get_by_label("Up: third").click()
    settled(page)
    names = [item.name for item in queues.read(Workspace(folder)).items]
    assert names == ["second", "third", "first"]
    expect(page.locator("#queue td:first-child b")).to_have_text(names)
