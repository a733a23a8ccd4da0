"""The demo: trains a LoRA of real handwriting with Noise Oversampling, measures it, and shows before and after."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from demo import handwriting
from demo.evaluation import GUIDANCE, Evaluation, evaluate
from demo.handwriting import Handwriting
from demo.judge import Judge
from demo.picture import before_after
from demo.summary import NAME, PLAIN, Trained, lines, report_of
from trainer.commands import training as commands
from trainer.commands.quiet import quiet
from trainer.files.atomic import write_folder

HERE = Path(__file__).parent
BASE = HERE / "base"
CONFIG = "demo.toml"


def main(output: Path, compare: bool = False) -> None:
    """Does everything and writes it to `output`; `compare` also trains the twin with plain noise."""
    started = time.monotonic()
    quiet()
    print("Preparing 1,797 real handwritten digits; a tenth is held out.", flush=True)
    train, heldout = handwriting.load()
    prepare(output, train)
    judge = Judge(train)
    print("Measuring the base model, which has only ever seen printed characters.", flush=True)
    before = evaluate(output / "base", None, heldout, judge)
    found = {NAME: trained(output, NAME, [], heldout, judge)}
    if compare:
        found[PLAIN] = trained(output, PLAIN, ["noise.oversampling=0"], heldout, judge)
    after = found[NAME]
    shutil.copyfile(after.lora, output / "demo.safetensors")
    save_picture(output / "before-after.png", before, after.evaluation)
    report = report_of(before, found, time.monotonic() - started)
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("\n".join(["", *lines(report, output)]), flush=True)


def prepare(output: Path, train: Handwriting) -> None:
    """Writes the base model, the training pictures with their captions, and the config that names them."""

    def pictures(folder: Path) -> None:
        for index, (image, digit) in enumerate(zip(train.images, train.labels, strict=True)):
            image.save(folder / f"{index:04d}.png")
            (folder / f"{index:04d}.txt").write_text(handwriting.caption(int(digit)) + "\n", encoding="utf-8")

    write_folder(output / "handwriting", pictures)
    write_folder(output / "base", lambda folder: shutil.copytree(BASE, folder, dirs_exist_ok=True))
    shutil.copyfile(HERE / CONFIG, output / CONFIG)


def trained(output: Path, name: str, overrides: Sequence[str], heldout: Handwriting, judge: Judge) -> Trained:
    """Trains the demo's config under a name, anew, and measures the LoRA file that it wrote."""
    started = time.monotonic()
    folder = output / "runs" / name
    # The demo's own folder from an earlier demo; its config may have changed since.
    shutil.rmtree(folder, ignore_errors=True)
    if commands.train(output / CONFIG, [f"run.name={name}", *overrides], resume=False) != "done":
        raise KeyboardInterrupt
    seconds = time.monotonic() - started
    print("Measuring the LoRA in diffusers.", flush=True)
    lora = folder / f"{name}.safetensors"
    return Trained(lora, seconds, evaluate(output / "base", lora, heldout, judge))


def save_picture(path: Path, before: Evaluation, after: Evaluation) -> None:
    note = f"same seeds, guidance {GUIDANCE:g}"
    before_after(before.images, after.images, note).save(path)
