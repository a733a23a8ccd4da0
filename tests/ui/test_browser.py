"""The user interface in a real browser: the whole story of a training, and what only a browser can show."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.tiny import tiny_sd
from tests.ui.browser import FLAGS, PATIENCE, Server, find_browser, free_port, open_tab, ready, type_in
from ui import processes
from ui.workspace import Workspace

Opens = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_browser()
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=path, args=FLAGS)
        yield found
        found.close()


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
        if process := processes.process_in(note):
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

    def open_page(**options: object) -> Page:
        context = browser.new_context(viewport={"width": 1440, "height": 900}, **options)  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE * 1000)
        contexts.append(context)
        page = context.new_page()
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
    page.locator("#f-model-base input").click()
    page.get_by_role("option", name="demo/base").click()
    page.locator("#oversampling").get_by_label("128").check()
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
    page = opens()
    open_tab(page, "Train")
    expect(page.locator("#run-state .run-head b")).to_have_text("output/story")
    expect(page.locator(pill)).to_have_text("training")
    page.locator("#pause").click()
    expect(page.locator(pill)).to_have_text("paused")
    page.locator("#go").click()
    expect(page.locator(pill)).to_have_text("training")
    page.locator("#sample-now").click()
    expect(page.locator("#samples img").first).to_be_visible()
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
    open_tab(page, "Try")
    expect(page.locator("#try-result input")).to_have_value("output/story / " + newest_result(run))
    type_in(page, "try-strengths", "0, 1")
    type_in(page, "try-steps", "2")
    page.locator("#try-draw").click()
    expect(page.locator("#try-pictures img")).to_have_count(1)
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
    """Tabs that do not fit are in a menu, which must lie above the fields."""
    page = opens()
    page.set_viewport_size({"width": 390, "height": 844})
    pages = page.locator("#pages > .tab-wrapper")
    for name in ("Train", "Runs", "Try", "Queue"):
        pages.get_by_role("tab", name="Setup", exact=True).click()
        pages.locator(".overflow-menu > button").click()
        pages.locator(".overflow-dropdown button", has_text=name).click(timeout=5000)
        expect(pages.get_by_role("tab", name=name, exact=True)).to_have_attribute("aria-selected", "true")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name


def test_the_form_and_the_file_are_two_views(opens: Opens, folder: Path) -> None:
    (folder / "mine.toml").write_text(
        "# mine\n[model]\nbase = 'models/tiny-sd'  # tiny\n[training]\nsteps = 7\n"
        "[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = 'photos'\n"
        "[[datasets.subsets]]\nimage_dir = 'more'\n"
    )
    page = opens()
    page.locator("#file input").click()
    page.get_by_role("option", name="mine.toml").click()
    expect(page.locator("#f-training-steps input")).to_have_value("7")
    expect(page.locator("#file-state")).to_have_text("saved")
    type_in(page, "f-training-steps", "9")
    expect(page.locator("#file-state")).to_have_text("unsaved changes")
    page.locator("#entry input").click()
    page.get_by_role("option", name="Dataset 1: more").click()
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


def test_three_browsers_see_the_same_run_and_the_noise_panel_answers(opens: Opens, server: Server) -> None:
    pages = [opens(), opens(color_scheme="dark"), opens()]
    set_up(pages[0], "noise")
    open_tab(pages[0], "Noise")
    expect(pages[0].locator("#noise-words")).to_contain_text("k = 64")
    type_in(pages[0], "f-noise-oversampling-k", "256")
    expect(pages[0].locator("#noise-words")).to_contain_text("k = 256")
    expect(pages[0].locator("#noise-curve .marker-text")).to_have_text("k = 256")
    expect(pages[0].locator("#timesteps-plot polyline.clear")).to_be_attached()
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
