"""What the demo found: report.json, and the last lines that a newcomer reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from demo.comparison import OversamplingComparison
from demo.evaluation import Evaluation

NAME, PLAIN = "demo", "plain"  # the runs


@dataclass(frozen=True)
class Trained:
    lora: Path
    seconds: float
    evaluation: Evaluation


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
        comparison = OversamplingComparison.of(found[NAME].evaluation, plain)
        report["plain"] = {
            "heldout_loss": plain.heldout_loss,
            "recognised": plain.verdict.share_recognised,
            "handwritten_and_recognised": plain.verdict.share_both,
            "oversampling_minus_plain": asdict(comparison),
        }
    return report


def lines(report: dict[str, Any], output: Path) -> list[str]:
    """What a newcomer should know at the end."""
    found = [
        f"Done in {report['seconds']:.0f} s. Of {report['pictures_judged']} generated digits, a classifier trained on "
        "real handwriting recognises",
        f"  {report['recognised_before']:.0%} before and {report['recognised_after']:.0%} after; "
        f"{report['handwritten_and_recognised_before']:.0%} and {report['handwritten_and_recognised_after']:.0%} "
        "are right and also look handwritten.",
        f"  Denoising loss on {report['heldout_pictures']} digits that were never trained on: "
        f"{report['heldout_loss_before']:.3f} before, {report['heldout_loss_after']:.3f} after.",
    ]
    if "plain" in report:
        found += _comparison(report["plain"])
    return [
        *found,
        "",
        f"Look at       {output / 'before-after.png'}",
        f"The LoRA is   {output / 'demo.safetensors'} (loads in diffusers on top of {output / 'base'})",
        f"The numbers   {output / 'report.json'}",
        "",
        "Three things to try next:",
        f"  python launch.py train {output / 'demo.toml'} --set run.name=longer --set training.steps=600",
        "  python launch.py demo --compare     also trains with plain noise and shows the difference",
        "  python launch.py ui                 the same in the browser, on your own pictures",
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
