"""The user interface in a real browser: the whole story of a training, and what only a browser can show."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, expect

from tests.tiny import tiny_sd
from tests.ui.browser import PATIENCE, Server, free_port, open_tab, pick, ready, type_in
from tests.ui.large import write_run
from trainer.run.holder import living
from ui.work import processes
from ui.work import queue as queues
from ui.work.queue import ItemState, QueuedRun
from ui.workspace import Workspace

Opens = Callable[..., Page]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a tiny base and a few captioned images."""
    place = tmp_path_factory.mktemp("workspace")
    tiny_sd(place / "models" / "tiny-sd", words=True)
    (place / "photos").mkdir()
    random = np.random.default_rng(0)
    for index in range(6):
        pixels = random.integers(0, 256, (64, 64 if index % 2 else 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "photos" / f"{index}.png")
        (place / "photos" / f"{index}.txt").write_text(f"a photo of a cat, {'red' if index % 2 else 'blue'}\n")
    return place


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    found = Server(folder, free_port())
    yield found
    found.kill()
    place = Workspace(folder)
    for note in place.note("starts", {}).values():
        if process := living(note):
            processes.end(process, at_once=True)


@pytest.fixture
def opens(browser: Browser, server: Server) -> Iterator[Opens]:
    """Opens the page in a browser profile of its own. Requests to anywhere else and errors of scripts fail the test."""
    contexts: list[BrowserContext] = []
    odd: list[str] = []

    def listen(page: Page) -> None:
        def asked(url: str) -> None:
            if urlsplit(url).scheme in ("http", "https") and urlsplit(url).netloc != f"127.0.0.1:{server.port}":
                odd.append(f"asked for {url}")

        page.on("request", lambda request: asked(request.url))
        page.on("pageerror", lambda error: odd.append(f"script error: {error}"))

    def open_page(script: str = "", **options: object) -> Page:
        context = browser.new_context(viewport={"width": 1440, "height": 900}, **options)  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE * 1000)
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(script)
        listen(page)
        ready(page, server.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert odd == []


def set_up(page: Page, name: str) -> None:
    """What a newcomer fills in for a small training."""
    name_field = page.locator("#f-run-name input")
    name_field.fill("old name")
    page.once("dialog", lambda dialog: dialog.accept())  # what was typed would be left
    page.locator("#new").click()
    expect(name_field).to_have_value("my-lora")
    type_in(page, "f-run-name", name)
    type_in(page, "f-model-base", "models/tiny-sd")
    type_in(page, "f-datasets-subsets-image_dir", "photos")
    type_in(page, "f-datasets-resolution", "64")
    expect(page.locator("#problems .good")).to_be_visible()


def test_the_main_story(opens: Opens, server: Server, folder: Path) -> None:
    page = opens()
    set_up(page, "story")
    pick(page, "f-model-base", "demo/base")
    page.locator("#oversampling").get_by_label("128").click()
    expect(page.locator("#oversampling").get_by_label("128")).to_be_checked()  # once the answer to the base is there
    type_in(page, "f-training-steps", "4000")
    open_tab(page, "Samples")
    type_in(page, "f-samples-prompts", "a photo of a cat\na photo of a dog")
    for control, text in (("steps", "2"), ("width", "32"), ("height", "32")):
        type_in(page, f"f-samples-{control}", text)
    expect(page.locator("#summary")).to_contain_text("4000 steps")
    expect(page.locator("#summary")).to_contain_text("Noise Oversampling 128")

    open_tab(page, "Train")
    page.locator("#start").click()
    pill = "#run-state .pill"
    expect(page.locator(pill)).to_have_text("training")
    expect(page.locator("#curves polyline.clear").first).to_be_attached()
    written = tomllib.loads((folder / "story.toml").read_text())
    assert written["noise"]["oversampling"] == 128
    assert written["samples"]["prompts"] == ["a photo of a cat", "a photo of a dog"]
    page.context.close()

    server.kill()
    server.start()
    page = opens("navigator.clipboard.writeText = async (text) => { window.copied = text; };")
    open_tab(page, "Train")
    expect(page.locator("#run-state .run-head b")).to_have_text("output/story")
    expect(page.locator(pill)).to_have_text("training")
    page.locator("#pause").click()
    expect(page.locator(pill)).to_have_text("paused")
    page.locator("#go").click()
    expect(page.locator(pill)).to_have_text("training")
    page.locator("#sample-now").click()
    expect(page.locator("#samples img").first).to_be_visible()
    page.locator("#sample-prompt input").fill("a green frog --s 1")
    page.locator("#sample-prompt input").press("Enter")
    expect(page.locator("#samples img[alt='a green frog']")).to_be_visible()
    page.locator("#save-now").click()
    expect(page.locator("#log")).to_contain_text("saved")
    page.locator("#stop").click()
    expect(page.locator(pill)).to_have_text("stopped")
    reached = step_of(page)
    assert 0 < reached < 4000
    page.locator("#resume").click()
    expect(page.locator(pill)).to_have_text("training")
    expect(page.locator("#log")).to_contain_text(f"goes on after step {reached}")
    page.locator("#stop").click()
    expect(page.locator(pill)).to_have_text("stopped")
    assert step_of(page) >= reached

    run = folder / "output" / "story"
    resolved = tomllib.loads((run / "config.toml").read_text())
    assert resolved["noise"]["oversampling"]["k"] == 128
    page.locator("#ending").get_by_text("Copy its path").click()
    expect(page.locator("#ending")).to_contain_text("Copied")
    assert page.evaluate("window.copied") == str(run / newest_result(run))
    page.locator("#ending").get_by_text("Try it").click()
    expect(page.locator("#try-result")).to_contain_text(newest_result(run))
    type_in(page, "try-strengths", "0, 1")
    type_in(page, "try-steps", "2")
    page.locator("#try-draw").click()
    expect(page.locator("#try-pictures img")).to_have_count(4)  # two prompts at two strengths
    expect(page.locator("#try-pictures th.prompt").first).to_have_text("a photo of a cat")
    open_tab(page, "Runs")
    page.locator("#runs [data-box='output/story']").check()
    expect(page.locator("#runs-curves polyline.clear").first).to_be_attached()
    expect(page.locator("#runs-samples img").first).to_be_visible()
    expect(page.locator("#runs-files")).to_contain_text(".safetensors")


def step_of(page: Page) -> int:
    return int(page.locator("#run-state dd").first.inner_text().split(" ")[0].replace(",", ""))


def newest_result(run: Path) -> str:
    found = sorted((p for p in run.glob("*.safetensors")), key=lambda p: (p.stem != run.name, p.name))
    return found[0].name


def test_variants_are_queued_and_compared_and_runs_are_put_away(opens: Opens, folder: Path) -> None:
    place = Workspace(folder)
    queues.pause(place, True)
    page = opens()
    set_up(page, "vary")
    open_tab(page, "Train")
    page.locator("#variants > button, #variants .label-wrap").first.click()
    expect(page.locator("#variants-preview")).to_contain_text("vary-oversampling-256")
    page.locator("#variants-queue").click()
    expect(page.locator("#variants-link")).to_contain_text("3 runs are in the queue")
    names = [f"vary-oversampling-{k}" for k in ("off", "64", "256")]
    assert [item.name for item in queues.read(place).items][-3:] == names
    for name in names:
        write_run(folder, name, 30)
    page.locator("#variants-link button").click()
    legend = page.locator("#runs-curves .legend").first
    for name in names:
        expect(legend).to_contain_text(name)

    page.once("dialog", lambda dialog: dialog.accept("the <first>"))
    page.get_by_label(f"Note: output/{names[0]}").click()
    expect(page.locator("#runs")).to_contain_text("the <first>")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_label(f"Delete: output/{names[0]}").click()
    expect(page.locator(f"[data-box='output/{names[0]}']")).to_have_count(0)
    page.get_by_role("button", name="Configs and trash").click()
    page.get_by_label(f"Bring back output/{names[0]}").click()
    expect(page.locator("#runs")).to_contain_text("the <first>")
    boxes = page.locator("#runs [data-box]")
    for name in names[1:]:
        page.locator(f"[data-box='output/{name}']").uncheck()
    page.locator(f"[data-box='output/{names[0]}']").check()
    page.locator("#runs-find input").fill("FIRST")
    expect(page.locator("#runs tr")).to_have_count(2)
    expect(boxes).to_be_checked()  # a row that stands for another run now has that run's tick
    page.locator("#runs-find input").fill("")
    expect(boxes).not_to_have_count(1)  # all rows are back, and none moves under the pointer any more
    expect(page.locator("#runs [data-box]:checked")).to_have_count(1)
    page.once("dialog", lambda dialog: dialog.accept())  # what was set up is not saved
    page.get_by_label(f"New from this run: output/{names[0]}").click()
    expect(page.locator("#f-run-name input")).to_have_value(f"{names[0]}-2")
    queues.clear(place)
    for item in queues.read(place).items:
        queues.remove(place, item.id)
    queues.pause(place, False)


STUB = """window.said = []; window.Notification = class { constructor(title, about) { window.said.push(about.body); } };
Notification.permission = "granted";"""


def test_the_end_of_a_run_and_of_the_queue_is_told_once_each(opens: Opens, folder: Path) -> None:
    """Files and a process that only waits stand for two trainings of the queue."""
    place = Workspace(folder)
    names = [f"output/told-{n}" for n in (1, 2)]
    waits = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    alive = {"pid": waits.pid, "created": psutil.Process(waits.pid).create_time(), "time": time.time()}

    def queue(*states: ItemState) -> None:
        items = [QueuedRun(id=name, name=name, source="", state=s) for name, s in zip(names, states, strict=True)]
        with queues.changed(place) as found:
            found.items = items

    def end(name: str, **how: str) -> None:
        run = place.absolute(name)
        run.mkdir(parents=True)
        told: list[dict[str, object]] = [{"event": "start"}, {**how}]
        lines = [json.dumps(dict(event, step=1, time=time.time())) for event in told]
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")

    queues.pause(place, True)
    queue("running", "waiting")
    starts = place.note("starts", {})
    place.write_note("starts", {**starts, **dict.fromkeys(names, alive)})
    page = opens(STUB)
    expect(page.locator("#states span")).to_have_attribute("data-states", re.compile("told-1.*starting"))
    end(names[0], event="stop", reason="done")
    place.write_note("starts", {**starts, names[0]: {**alive, "pid": 0}, names[1]: alive})
    page.wait_for_function("window.said.length > 0")
    queue("done", "running")
    page.wait_for_timeout(2500)
    assert page.evaluate("window.said") == ["output/told-1 is finished."]
    end(names[1], event="error")
    place.write_note("starts", {**starts, names[1]: {**alive, "pid": 0}})
    queue("done", "failed")
    page.wait_for_function("window.said.length > 2")
    assert sorted(page.evaluate("window.said.slice(1)")) == [
        "The queue has ended: 1 done, 1 failed or stopped.", "output/told-2 failed."
    ]  # fmt: skip
    waits.kill()
    place.write_note("starts", starts)
    queue_left = [item.id for item in queues.read(place).items]
    for id in queue_left:
        queues.remove(place, id)
    queues.pause(place, False)
    for name in names:
        shutil.rmtree(place.absolute(name))


def test_the_tour_leads_through_the_pages_once(opens: Opens) -> None:
    page = opens()
    tour = page.locator("#tour")
    for name in ("Dataset", "Noise", "Train"):
        tour.get_by_role("button", name="Next").click()
        expect(page.get_by_role("tab", name=name, exact=True).first).to_have_attribute("aria-selected", "true")
        expect(tour).to_contain_text(f"{name}:")
    tour.get_by_role("button", name="Skip the tour").click()
    expect(tour).to_be_hidden()
    expect(page.get_by_role("tab", name="Setup", exact=True).first).to_have_attribute("aria-selected", "true")
    page.reload()
    expect(page.locator("#problems ul, #problems .good").first).to_be_visible()
    expect(tour).to_be_hidden()


def test_an_error_stands_beside_its_field_and_is_found_behind_a_tab(opens: Opens) -> None:
    page = opens()
    set_up(page, "errors")
    type_in(page, "f-training-steps", "many")
    expect(page.locator("#f-training-steps .field-problem")).to_have_text("found 'many', expected a whole number.")
    expect(page.locator("#f-training-steps input")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("alert").filter(has_text="training.steps")).to_be_visible()
    type_in(page, "f-training-steps", "10")
    expect(page.locator(".field-problem")).to_have_count(0)
    open_tab(page, "Loss")
    type_in(page, "f-loss-gamma", "-1")
    expect(page.locator("#problems")).to_contain_text("loss.gamma")
    open_tab(page, "LoRA")
    expect(page.locator("#f-loss-gamma")).to_be_hidden()
    page.locator("#problems button").first.click()
    expect(page.locator("#f-loss-gamma .field-problem")).to_contain_text("more than 0")
    expect(page.locator("#f-loss-gamma input")).to_be_focused()


def test_edits_are_asked_about_kept_offered_and_taken_back(opens: Opens, folder: Path) -> None:
    page = opens()
    (folder / "kept.toml").write_text("[model]\nbase = 'models/tiny-sd'\n[training]\nsteps = 5\n")  # the page is open
    asked: list[str] = []
    answers = iter([False, True, True])

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.message)
        (dialog.accept if next(answers) else dialog.dismiss)()

    page.on("dialog", answer)

    def choose(name: str) -> None:
        pick(page, "file", name)

    steps = page.locator("#f-training-steps input")
    choose("kept.toml")
    expect(steps).to_have_value("5")
    type_in(page, "f-training-steps", "6")
    type_in(page, "f-training-steps", "7")
    expect(page.locator("#file-state")).to_have_text("unsaved changes")
    page.locator("#new").click()
    choose("new config (not saved)")
    expect(page.locator("#f-run-name input")).to_have_value("my-lora")
    assert len(asked) == 2
    choose("kept.toml")
    expect(steps).to_have_value("5")
    page.locator("#take-draft").click()
    expect(steps).to_have_value("7")
    expect(page.locator("#offer")).to_be_hidden()
    page.locator("#step-back").click()
    expect(steps).to_have_value("6")
    page.locator("#step-forth").click()
    expect(steps).to_have_value("7")
    page.reload()
    expect(page.locator("#offer")).to_contain_text("never saved")
    assert len(asked) == 3


def test_a_setting_is_found_by_its_name_elsewhere_and_by_keyboard(opens: Opens) -> None:
    page = opens()
    page.locator("body").press("/")
    expect(page.locator("#search input")).to_be_focused()
    page.keyboard.type("gradient clip")
    page.locator("#search-results button").first.press("Enter")
    expect(page.locator("#f-training-max_grad_norm input")).to_be_focused()
    first = page.get_by_role("tab", name="Setup", exact=True)
    first.press("ArrowRight")
    expect(page.get_by_role("tab", name="Noise", exact=True)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowLeft")
    expect(first).to_have_attribute("aria-selected", "true")


def test_every_page_is_reached_on_a_phone_and_fits_it(opens: Opens) -> None:
    """By a row of its own, and the head is one row; nothing anywhere must be pushed sideways."""
    page = opens()
    wide = """() => [...document.querySelectorAll("*")].filter((e) => e.scrollWidth > e.clientWidth + 1
        && e.offsetParent && /auto|scroll/.test(getComputedStyle(e).overflowX) && !e.matches(".scroll, pre, textarea"))
        .map((e) => e.outerHTML.slice(0, 120))"""
    open_tab(page, "Noise")
    for more in page.locator("button.label-wrap").all():
        more.click()
    assert page.evaluate(wide) == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.locator(".bar").bounding_box()["height"] < 60  # type: ignore[index]
    for name in ("Train", "Runs", "Try", "Queue", "Setup", "Noise", "Dataset"):
        page.locator("#pages-nav").get_by_role("button", name=name).click()
        expect(page.locator("#pages-nav [aria-current=page]")).to_have_text(name)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        assert page.evaluate(wide) == [], name
    page.locator("[data-menu]").click()
    expect(page.locator("#save-as")).to_be_visible()
    page.locator("[data-theme]").click()
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


def test_the_form_and_the_file_are_two_views(opens: Opens, folder: Path) -> None:
    (folder / "mine.toml").write_text(
        "# mine\n[model]\nbase = 'models/tiny-sd'  # tiny\n[training]\nsteps = 7\n"
        "[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = 'photos'\n"
        "[[datasets.subsets]]\nimage_dir = 'more'\n"
    )
    page = opens()
    pick(page, "file", "mine.toml")
    expect(page.locator("#f-training-steps input")).to_have_value("7")
    expect(page.locator("#file-state")).to_have_text("saved")
    type_in(page, "f-training-steps", "9")
    expect(page.locator("#file-state")).to_have_text("unsaved changes")
    pick(page, "entry", "Dataset 1: more")
    expect(page.locator("#f-datasets-subsets-image_dir input")).to_have_value("more")
    open_tab(page, "TOML")
    expect(page.locator("#diff")).to_contain_text("+steps = 9")
    expect(page.locator("#different")).to_contain_text("training.steps")
    text = page.locator("#toml textarea")
    text.fill(text.input_value().replace("steps = 9", "steps = 11"))
    page.locator("#use-text").click()
    expect(page.locator("#f-training-steps input")).to_have_value("11")
    page.locator("#save").click()
    expect(page.locator("#file-state")).to_have_text("saved")
    written = (folder / "mine.toml").read_text()
    assert written.startswith("# mine\n[model]\nbase = 'models/tiny-sd'  # tiny\n[training]\nsteps = 11\n")


def test_the_images_are_shown_and_a_caption_is_edited_in_place(opens: Opens, folder: Path) -> None:
    page = opens()
    set_up(page, "dataset")
    open_tab(page, "Dataset")
    page.locator("#look").click()
    expect(page.locator("#gallery .cell")).to_have_count(6)
    expect(page.locator("#gallery .crop").first).to_be_attached()
    expect(page.locator("#tags")).to_contain_text("red 3")
    page.locator("#gallery .cell", has_text="2.png").click()
    expect(page.locator("#caption textarea")).to_have_value("a photo of a cat, blue")
    page.locator("#caption textarea").fill("a photo of a dog")
    page.locator("#save-caption").click()
    expect(page.locator("#gallery")).to_contain_text("(edited)")
    assert (folder / "photos" / "2.txt").read_text() == "a photo of a dog\n"
    page.locator("#undo").click()
    expect(page.locator("#caption-said")).to_contain_text("Took back")
    assert (folder / "photos" / "2.txt").read_text() == "a photo of a cat, blue\n"
    page.locator("#tags button", has_text="red").click()
    expect(page.locator("#gallery .cell")).to_have_count(3)
    cells, ticks = page.locator("#gallery .cell"), page.locator("#gallery [data-box]")
    cells.first.focus()
    page.keyboard.press("x")
    expect(ticks.first).to_be_checked()
    page.keyboard.press("ArrowRight")
    expect(cells.nth(1)).to_be_focused()
    page.keyboard.press("x")
    expect(ticks.nth(1)).to_be_checked()
    page.locator("#tag-find input").fill("new")
    expect(page.locator("#tag-preview")).to_contain_text("2 of 2 captions would change")
    page.locator("#tag-apply").click()
    expect(page.locator("#caption-said")).to_contain_text("2 captions changed")
    assert sum("new" in file.read_text() for file in (folder / "photos").glob("*.txt")) == 2
    page.locator("#undo").click()
    expect(page.locator("#caption-said")).to_contain_text("Took back")

    page.get_by_role("button", name="Bring images in").click()
    page.locator("#bring-folder input").fill("brought")
    packed = folder / "set.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(folder / "photos" / "0.png", "../0.png")
        archive.writestr("0.txt", "a blue cat")
        archive.writestr("run.exe", "MZ")
    page.locator("#bring-files input[type=file]").set_input_files([packed])
    expect(page.locator("#bring-preview")).to_contain_text("2 files")
    expect(page.locator("#bring-preview")).to_contain_text("run.exe is neither an image nor a caption")
    page.locator("#bring-write").click()
    expect(page.locator("#bring-preview")).to_contain_text("2 files are in brought")
    assert (folder / "brought" / "0.txt").read_text() == "a blue cat"
    open_tab(page, "Setup")
    expect(page.locator("#entry input")).to_have_value("Dataset 1: brought")


def test_folders_are_looked_through_and_many_images_shown_with_their_masks(opens: Opens, folder: Path) -> None:
    many, masks = folder / "sets" / "many", folder / "masks"
    many.mkdir(parents=True)
    masks.mkdir()
    for index in range(30):
        Image.new("RGB", (64, 64), (8 * index, 0, 0)).save(many / f"{index:02}.png")
        (many / f"{index:02}.txt").write_text("a red square")
        Image.new("L", (64, 64), 255).save(masks / f"{index:02}.png")
    page = opens()
    set_up(page, "many")
    open_tab(page, "Dataset")
    page.get_by_role("button", name="Bring images in").click()
    files = page.locator("#browser")
    files.get_by_role("button", name="sets", exact=True).click()
    files.get_by_role("button", name="many", exact=True).click()
    expect(files).to_contain_text("sets/many")
    files.get_by_role("button", name="up").click()
    files.get_by_role("button", name="bring images here").click()
    expect(page.locator("#bring-folder input")).to_have_value("sets/many")
    files.get_by_role("button", name="train on them").click()
    open_tab(page, "Setup")
    expect(page.locator("#entry input")).to_have_value("Dataset 1: sets/many")
    page.locator("#settings").get_by_role("tab", name="Images", exact=True).first.click(force=True)
    type_in(page, "f-datasets-subsets-conditioning_data_dir", "masks")
    open_tab(page, "Dataset")
    page.locator("#look").click()
    cells = page.locator("#gallery .cell")
    expect(cells).to_have_count(24)
    page.locator("#page-forward").click()
    expect(cells).to_have_count(12)  # with the six of the first folder
    pick(page, "dataset-count", "48 a page")
    expect(cells).to_have_count(36)
    cells.filter(has_text="29.png").click()
    mask = page.locator("#picture img.mask")
    expect(mask).to_be_visible()
    assert mask.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0


def test_three_browsers_see_the_same_run_and_the_noise_panel_answers(
    opens: Opens, server: Server, folder: Path
) -> None:
    text = (
        "[run]\nname = 'other'\n[model]\nbase = 'models/tiny-sd'\n[training]\nsteps = 4\n[noise]\noversampling = 64\n"
    )
    (folder / "other.toml").write_text(text)
    pages = [opens(), opens(color_scheme="dark"), opens()]
    set_up(pages[0], "noise")
    open_tab(pages[0], "Noise")
    expect(pages[0].locator("#noise-words")).to_contain_text("is off")
    type_in(pages[0], "f-noise-oversampling-k", "256")
    expect(pages[0].locator("#noise-words")).to_contain_text("k = 256")
    expect(pages[0].locator("#noise-curve .marker-text")).to_have_text("k = 256")
    expect(pages[0].locator("#timesteps-plot polyline.clear")).to_be_attached()
    pages[0].once("dialog", lambda dialog: dialog.accept())
    pick(pages[0], "file", "other.toml")
    expect(pages[0].locator("#noise-words")).to_contain_text("k = 64")
    for page in pages[1:]:
        open_tab(page, "Queue")
        expect(page.locator("#queue")).to_contain_text("empty")
    assert "dark" in (pages[1].locator("body").get_attribute("class") or "")


def test_every_control_has_a_name_and_the_first_page_is_light(opens: Opens) -> None:
    page = opens()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input, textarea, button")].filter((e) => e.offsetParent !== null
        && !(e.getAttribute("aria-label") || e.textContent.trim() || e.title || e.closest("label")?.textContent.trim()))
        .map((e) => e.outerHTML.slice(0, 200))"""
    )
    assert nameless == []
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    assert page.evaluate("document.querySelectorAll('*').length") < 3000


def test_a_login_is_asked_for_and_let_in(browser: Browser, tmp_path: Path) -> None:
    server = Server(tmp_path, free_port(), "--auth", "ann:secret")
    try:
        for wrong in (None, {"username": "ann", "password": "guess"}):
            stranger = browser.new_context(http_credentials=wrong)
            assert stranger.request.get(server.url).status == 401
            stranger.close()
        friend = browser.new_context(http_credentials={"username": "ann", "password": "secret"})
        ready(friend.new_page(), server.url)
        friend.close()
    finally:
        server.kill()
