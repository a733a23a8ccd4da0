"""The demo: trains a LoRA of real handwriting with Noise Oversampling, measures it, and shows before and after."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.comparison import Comparison
from demo.evaluation import GUIDANCE, Evaluation, evaluate
from demo.handwriting import Handwriting
from demo.judge import Judge

HERE = Path(__file__).parent
BASE = HERE / "base"
CONFIG = "demo.toml"
NAME, PLAIN = "demo", "plain"


@dataclasses.dataclass(frozen=True)
class Trained:
    lora: Path
    seconds: float
    evaluation: Evaluation


def main(output: Path, compare: bool = False) -> None:
    """Does everything and writes it to `output`; `compare` also trains the twin with plain noise."""
    started = time.monotonic()
    # What is imported from here on takes seconds; the first line should not wait for it.
    print("Preparing 1,797 real handwritten digits; a tenth is held out.", flush=True)
    from demo import handwriting

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
    print("\n".join(["", *summary(report, output)]), flush=True)


def prepare(output: Path, train: Handwriting) -> None:
    """Writes the base model, the training pictures with their captions, and the config that names them."""
    from demo.handwriting import caption
    from trainer.atomic import write_folder

    def pictures(folder: Path) -> None:
        for index, (image, digit) in enumerate(zip(train.images, train.labels, strict=True)):
            image.save(folder / f"{index:04d}.png")
            (folder / f"{index:04d}.txt").write_text(caption(int(digit)) + "\n", encoding="utf-8")

    write_folder(output / "handwriting", pictures)
    write_folder(output / "base", lambda folder: shutil.copytree(BASE, folder, dirs_exist_ok=True))
    shutil.copyfile(HERE / CONFIG, output / CONFIG)


def trained(output: Path, name: str, overrides: Sequence[str], heldout: Handwriting, judge: Judge) -> Trained:
    """Trains the demo's config under a name, anew, and measures the LoRA file that it wrote."""
    from trainer import build, config_io
    from trainer.console import Console

    started = time.monotonic()
    config = config_io.read(output / CONFIG, [f"run.name={name}", *overrides])
    folder = Path(config.run.output_dir) / name
    # The demo's own folder from an earlier demo; its config may have changed since.
    shutil.rmtree(folder, ignore_errors=True)
    run = build.training(config, Console())
    assert run is not None
    if run.run() != "done":
        raise KeyboardInterrupt
    seconds = time.monotonic() - started
    lora = folder / f"{name}.safetensors"
    return Trained(lora, seconds, evaluate(output / "base", lora, heldout, judge))


def save_picture(path: Path, before: Evaluation, after: Evaluation) -> None:
    from demo.picture import before_after

    note = f"same seeds, guidance {GUIDANCE:g}"
    before_after(before.images, after.images, note).save(path)


def report_of(before: Evaluation, found: dict[str, Trained], seconds: float) -> dict[str, Any]:
    """What report.json holds; shares are from 0 to 1."""
    report: dict[str, Any] = {"seconds": round(seconds, 1)}
    for name, evaluation in (("before", before), ("after", found[NAME].evaluation)):
        report[f"heldout_loss_{name}"] = evaluation.heldout_loss
        report[f"recognised_{name}"] = evaluation.verdict.share_recognised
        report[f"handwritten_and_recognised_{name}"] = evaluation.verdict.share_both
    report["training_seconds"] = round(found[NAME].seconds, 1)
    report["pictures_judged"] = len(before.images)
    report["heldout_pictures"] = len(before.losses)
    if PLAIN in found:
        plain = found[PLAIN].evaluation
        comparison = Comparison.of(found[NAME].evaluation, plain)
        report["plain"] = {
            "heldout_loss": plain.heldout_loss,
            "recognised": plain.verdict.share_recognised,
            "handwritten_and_recognised": plain.verdict.share_both,
            "oversampling_minus_plain": dataclasses.asdict(comparison),
        }
    return report


def summary(report: dict[str, Any], output: Path) -> list[str]:
    """What a newcomer should know at the end."""
    lines = [
        f"Done in {report['seconds']:.0f} s. Of {report['pictures_judged']} generated digits, a classifier trained on "
        "real handwriting recognises",
        f"  {report['recognised_before']:.0%} before and {report['recognised_after']:.0%} after; "
        f"{report['handwritten_and_recognised_before']:.0%} and {report['handwritten_and_recognised_after']:.0%} "
        "are right and also look handwritten.",
        f"  Denoising loss on {report['heldout_pictures']} digits that were never trained on: "
        f"{report['heldout_loss_before']:.3f} before, {report['heldout_loss_after']:.3f} after.",
    ]
    if "plain" in report:
        lines += _comparison(report["plain"])
    return [
        *lines,
        "",
        f"Look at       {output / 'before-after.png'}",
        f"The LoRA is   {output / 'demo.safetensors'} (loads in diffusers on top of {output / 'base'})",
        f"The numbers   {output / 'report.json'}",
        "",
        "Three things to try next:",
        f"  python launch.py train {output / CONFIG} --set run.name=longer --set training.steps=600",
        "  python launch.py demo --compare      the same LoRA with plain noise, and the difference",
        "  python launch.py check my.toml       your own pictures; the README shows what to write into my.toml",
    ]


def _comparison(plain: dict[str, Any]) -> list[str]:
    difference = plain["oversampling_minus_plain"]
    loss, recognised = difference["loss"], difference["recognised"]
    return [
        f"  The plain twin: held-out loss {plain['heldout_loss']:.3f}, {plain['recognised']:.0%} recognised.",
        f"  Oversampling minus plain, paired, 95 % interval: loss {loss['mean']:+.4f} +- {loss['half_width']:.4f}, "
        f"recognised {100 * recognised['mean']:+.0f} +- {100 * recognised['half_width']:.0f} points "
        "(one training seed; other seeds differ by more than the interval says).",
    ]
