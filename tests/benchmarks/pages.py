"""Pictures of every page of the user interface, with real runs: to be looked at, and for docs/images.

    python tests/benchmarks/pages.py OUT [--only Queue] [--keep FOLDER] [--docs]

Makes a workspace (or uses the one that an earlier call kept), trains small runs on the demo's base in it, and takes
each page wide and narrow, light and dark; with `--docs` only the upper part of the pages that docs/images shows.
Needs minutes; asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect, sync_playwright

from demo import handwriting
from tests.ui.browser import FLAGS, PATIENCE, Server, find_browser, free_port, open_tab, type_in
from trainer.run.holder import living
from ui.work import processes
from ui.work import queue as queues
from ui.work.queue import ItemState
from ui.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
DIGITS, HELD_OUT = 160, 32
BASE = "models/demo-base"
RUNS: dict[str, list[str]] = {"digits-off": [], "digits-64": ["noise.oversampling=64"]}
STEPS = 90
CONFIG = f"""# Handwriting on a base that has only seen printed characters.

[run]
name = "digits"

[model]
base = "{BASE}"

[training]
steps = {STEPS}

[lora]
rank = 16
conv_rank = 16

[optimizer]
lr = 3e-3

[noise]
oversampling = 128

[samples]
prompts = ["a handwritten digit three", "a handwritten digit seven"]
every = 30
steps = 12
guidance = 3.0
width = 32
height = 32

[validation]
every = 30

[[validation.datasets]]
resolution = 32
[[validation.datasets.subsets]]
image_dir = "held-out"

[[datasets]]
resolution = 32
batch_size = 16

[[datasets.subsets]]
image_dir = "digits"
"""
KOHYA = {
    "LoRA_type": "Standard", "pretrained_model_name_or_path": BASE, "train_data_dir": "digits",
    "output_name": "theirs", "network_dim": 16, "network_alpha": 8, "max_train_steps": 800, "learning_rate": 0.0001,
    "optimizer": "AdamW8bit", "lr_scheduler": "cosine", "lr_warmup": 10, "mixed_precision": "bf16",
    "save_precision": "fp16", "xformers": "xformers", "min_snr_gamma": 5, "caption_dropout_rate": 0.05,
    "max_resolution": "512,512", "train_batch_size": 2, "vae_batch_size": 0,
}  # fmt: skip
SUBJECTS = {
    "temple": "a photo of a temple, red walls, blue sky, trees",
    "flower": "a macro photo of a flower, pink petals, dark background",
}
SHAPES = ((0, 0, 1280, 854), (200, 60, 1040, 840), (320, 0, 900, 854), (100, 100, 1180, 700), (0, 200, 800, 800))
MORE = ", close up, soft light, sharp focus, high detail, natural colours"
ENDED: dict[ItemState, str] = {"done": "", "failed": "model.base: there is no 'models/none'", "stopped": ""}
PHOTOS = f"""[run]
name = "photos"

[model]
base = "{BASE}"

[training]
steps = 1200

[[datasets]]
resolution = 512
enable_bucket = true

[[datasets.subsets]]
image_dir = "photos"
conditioning_data_dir = "masks"
num_repeats = 10
"""


# --- what is shown ------------------------------------------------------------------------------------------------


def make(folder: Path) -> None:
    """The workspace; what is there already stays."""
    if (folder / "digits.toml").is_file():
        return
    shutil.copytree(ROOT / "demo" / "base", folder / BASE)
    train, heldout = handwriting.load()
    for name, pictures, count in (("digits", train, DIGITS), ("held-out", heldout, HELD_OUT)):
        (folder / name).mkdir()
        for index in range(count):
            pictures.images[index].save(folder / name / f"{index:03d}.png")
            said = handwriting.caption(int(pictures.labels[index]))
            (folder / name / f"{index:03d}.txt").write_text(f"{said}\n", encoding="utf-8")
    photos(folder / "photos", folder / "masks")
    (folder / "photos.toml").write_text(PHOTOS, encoding="utf-8")
    for name, changes in RUNS.items():
        changed = (f"run.name={name}", "noise.oversampling=0", *changes)
        sets = [part for change in changed for part in ("--set", change)]
        (folder / "digits.toml").write_text(CONFIG, encoding="utf-8")
        command = processes.command("train", "digits.toml", *sets)
        subprocess.run(command, cwd=folder, check=True, env=processes.environment())
    (folder / "kohya.json").write_text(json.dumps(KOHYA), encoding="utf-8")
    fail(folder)
    queue(folder)


def fail(folder: Path) -> None:
    """A run that ends before its first step."""
    path = folder / "failing.toml"
    path.write_text(PHOTOS.replace('"photos"', '"failing"', 1), encoding="utf-8")
    place = Workspace(folder)
    name = processes.start(place, path)
    while processes.starting(place, name):
        time.sleep(0.2)
    path.unlink()


def queue(folder: Path) -> None:
    """One of each kind."""
    place = Workspace(folder)
    queues.pause(place, True)
    names = [f"digits-rank-{rank}" for rank in (4, 8, 16, 32, 64)]
    queues.add_texts(place, {name: CONFIG.replace('name = "digits"', f'name = "{name}"') for name in names})
    for name in names:
        (folder / f"{name}.toml").unlink()
    with queues.changed(place) as found:
        for item, (state, message) in zip(found.items, ENDED.items(), strict=False):
            item.state, item.message = state, message


def photos(folder: Path, masks: Path) -> None:
    """Parts of scikit-learn's two photographs in several shapes with masks; one file is broken, one has no caption."""
    from sklearn.datasets import load_sample_images

    folder.mkdir()
    masks.mkdir()
    for subject, picture in zip(SUBJECTS, load_sample_images().images, strict=True):
        whole = Image.fromarray(picture).resize((1280, 854), Image.Resampling.LANCZOS)
        for number, box in enumerate(SHAPES):
            name = f"{subject}-{number + 1}"
            whole.crop(box).save(folder / f"{name}.jpg", quality=90)
            more = MORE * (6 if number == 3 else number % 2)
            if name != "temple-5":
                (folder / f"{name}.txt").write_text(f"{SUBJECTS[subject]}{more}\n", encoding="utf-8")
            width, height = box[2] - box[0], box[3] - box[1]
            mask = Image.new("L", (width, height), 0)
            ImageDraw.Draw(mask).ellipse((width // 8, height // 8, width * 7 // 8, height * 7 // 8), fill=255)
            mask.save(masks / f"{name}.png")
    shutil.copyfile(masks / "temple-1.png", masks / "broken.png")
    (folder / "broken.jpg").write_bytes((folder / "temple-1.jpg").read_bytes()[:30_000])


# --- the pages ----------------------------------------------------------------------------------------------------


def go(page: Page, name: str) -> None:
    """To a page, by the row of tabs or on a phone by the row at the bottom."""
    button = page.locator("#pages-nav").get_by_role("button", name=name, exact=True)
    if button.is_visible():
        button.click()
    else:
        open_tab(page, name)
    page.wait_for_timeout(400)


def config(page: Page, name: str) -> None:
    page.locator("#file input").click()
    page.get_by_role("option", name=name).click()
    expect(page.locator("#file input")).to_have_value(name)
    page.wait_for_timeout(1500)


def setup(page: Page, tab: str) -> None:
    go(page, "Setup")
    page.get_by_role("tab", name=tab, exact=True).first.click(force=True)


def look(page: Page) -> None:
    config(page, "photos.toml")
    go(page, "Dataset")
    page.locator("#look").click()
    expect(page.locator("#gallery .cell").first).to_be_visible(timeout=600_000)
    page.locator("#gallery .cell", has_text="flower-2").first.click()
    expect(page.locator("#caption textarea")).to_be_visible()
    page.wait_for_timeout(1500)


def look_and_change(page: Page) -> None:
    look(page)
    page.locator("#gallery [data-box]").nth(1).check()
    page.locator("#gallery [data-box]").nth(3).check()
    type_in(page, "tag-find", "ohwx")
    page.get_by_role("button", name="Bring images in").click()
    page.wait_for_timeout(1200)


def follow(page: Page, run: str) -> None:
    go(page, "Train")
    page.locator("#run input").click()
    page.get_by_role("option", name=run, exact=True).click()
    expect(page.locator("#run-state .run-head b")).to_have_text(run)
    page.wait_for_timeout(1500)


def train(page: Page, name: str, *, steps: str, base: str = BASE) -> None:
    """Starts a run as a person does."""
    config(page, "digits.toml")
    go(page, "Setup")
    type_in(page, "f-run-name", name)
    type_in(page, "f-model-base", base)
    type_in(page, "f-training-steps", steps)
    page.wait_for_timeout(800)
    go(page, "Train")
    page.locator("#start").click()


def running(page: Page) -> None:
    if not page.locator("#run-state .pill.live").count():
        train(page, "long", steps="20000")
    follow(page, "output/long")
    expect(page.locator("#run-state .pill")).to_have_text("training", timeout=600_000)
    page.wait_for_timeout(6000)


def variants(page: Page) -> None:
    config(page, "digits.toml")
    go(page, "Train")
    page.locator("#variants > button, #variants .label-wrap").first.click()
    page.wait_for_timeout(2500)


def compare(page: Page) -> None:
    go(page, "Runs")
    for name in RUNS:
        page.locator(f"[data-box='output/{name}']").check()
    expect(page.locator("#runs-curves polyline.clear").first).to_be_attached()
    page.locator("#runs-pair").click()
    expect(page.locator("#runs-paired pre")).to_contain_text("%", timeout=600_000)
    page.wait_for_timeout(1500)


def trash(page: Page) -> None:
    go(page, "Runs")
    page.get_by_role("button", name="Configs and trash").click()
    page.wait_for_timeout(800)


def tried(page: Page) -> None:
    go(page, "Try")
    page.wait_for_timeout(1000)
    if page.locator("#try-pictures img").count():
        return
    type_in(page, "try-prompts", "a handwritten digit three\na handwritten digit seven")
    type_in(page, "try-guidance", "3")
    type_in(page, "try-steps", "12")
    page.locator("#try-draw").click()
    expect(page.locator("#try-pictures img").first).to_be_visible(timeout=600_000)
    page.wait_for_timeout(1500)


def imported(page: Page) -> None:
    page.locator("[data-menu]").click() if page.locator("[data-menu]").is_visible() else None
    page.locator("#import").click()
    expect(page.locator("#import-path")).to_be_visible()
    page.wait_for_timeout(500)
    type_in(page, "import-path", "kohya.json")
    page.locator("#import-look").click()
    expect(page.locator("#import-use")).to_be_visible()


def measured(page: Page) -> None:
    config(page, "digits.toml")
    go(page, "Noise")
    if not page.locator("#noise-pictures img").count():
        page.locator("#measure-noise").click()
        expect(page.locator("#noise-pictures img").first).to_be_visible(timeout=900_000)
    page.wait_for_timeout(1500)


def wrong(page: Page) -> None:
    config(page, "photos.toml")
    go(page, "Setup")
    type_in(page, "f-training-steps", "many")
    type_in(page, "f-model-base", "models/none")
    page.wait_for_timeout(1500)


def searched(page: Page) -> None:
    go(page, "Setup")
    page.locator("#search input").fill("gamma")
    page.wait_for_timeout(500)
    page.locator("#search").scroll_into_view_if_needed()


def new(page: Page) -> None:
    if page.locator("[data-menu]").is_visible():
        page.locator("[data-menu]").click()
    page.locator("#new").click()
    page.wait_for_timeout(1500)


TABS = ("Model", "Training", "LoRA", "Optimizer", "Loss", "Samples", "Validation", "Saving", "Images", "TOML")


DOCS = ("setup", "noise", "dataset", "train-finished", "runs-compare")


def shots() -> dict[str, Callable[[Page], None]]:
    return {
        "setup": lambda page: config(page, "digits.toml"),
        "setup-new": new,
        "setup-wrong": wrong,
        **{f"setup-{tab.lower()}": (lambda page, tab=tab: setup(page, tab)) for tab in TABS},
        "noise": measured,
        "dataset-empty": lambda page: go(page, "Dataset"),
        "dataset": look,
        "dataset-change": look_and_change,
        "train-finished": lambda page: follow(page, "output/digits-64"),
        "train-failed": lambda page: follow(page, "output/failing"),
        "train-variants": variants,
        "queue": lambda page: go(page, "Queue"),
        "runs": lambda page: go(page, "Runs"),
        "runs-trash": trash,
        "import": imported,
        "setup-search": searched,
        "runs-compare": compare,
        "try": tried,
        "train-running": running,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--docs", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as play:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        make(folder)
        server = Server(folder, free_port())
        browser = play.chromium.launch(executable_path=find_browser(), args=FLAGS)
        expect.set_options(timeout=PATIENCE * 1000)
        try:
            wanted = list(DOCS) if asked.docs else asked.only.split(",") if asked.only else list(shots())
            take(browser, server, asked.out, wanted, docs=asked.docs)
        finally:
            browser.close()
            server.kill()
            for note in Workspace(folder).note("starts", {}).values():
                if process := living(note):
                    processes.end(process, at_once=True)


def take(browser: Browser, server: Server, out: Path, wanted: Sequence[str], *, docs: bool) -> None:
    size = {"width": 1280, "height": 880} if docs else {"width": 1440, "height": 900}
    context = browser.new_context(viewport=size, color_scheme="light")
    context.add_init_script("localStorage.setItem('toured', 'yes')")
    context.set_default_timeout(PATIENCE * 1000)
    page = context.new_page()
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(server.url)
    expect(page.locator("#problems ul, #problems .good").first).to_be_visible()
    for name, lead in shots().items():
        if name not in wanted:
            continue
        lead(page)
        if docs:
            page.evaluate("window.scrollTo(0, 0)")
            page.screenshot(path=out / f"ui-{name.partition('-')[0]}.png")
            continue
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            for theme in ("light", "dark"):
                page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
                page.wait_for_timeout(400)
                page.screenshot(path=out / f"{name}-{width}-{theme}.png", full_page=True)
        page.evaluate("document.body.classList.remove('dark')")
        page.set_viewport_size({"width": 1440, "height": 900})
        print(name, flush=True)
    context.close()


if __name__ == "__main__":
    main()
