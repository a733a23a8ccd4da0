"""Says what was found, in lines and a table for a person."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from gpu_check.case import NAMES
from trainer.config.presets.choosing import all_presets, choices
from trainer.files.atomic import size_text

HEADS = ("training", "s/step", "images/s", "of roofline", "peak memory", "check says", "against", "first step")


def line(name: str, figures: dict[str, Any]) -> str:
    """A figure as soon as it exists."""
    if "error" in figures:
        return f"{name}: {figures['error']}"
    if "seconds" in figures:
        peak = f", {size_text(figures['peak_bytes'])}" if "peak_bytes" in figures else ""
        return f"{name}: {figures['seconds']:.3f} s a step, {figures['images_per_second']:.2f} images/s{peak}"
    if "passed" in figures:
        return f"{name}: {figures['passed']} passed, {len(figures['failed'])} failed"
    if "plain" in figures:
        return f"{name}: " + ", ".join(
            f"{way} {found['milliseconds']:.3g} ms" for way, found in figures.items() if way != "shape"
        )
    if "fp32" in figures:
        return f"{name}: " + ", ".join(
            f"{way} {found['images_per_second']:.3g} images/s"
            for way, found in figures.items()
            if isinstance(found, dict) and "images_per_second" in found
        )
    return f"{name}: " + ", ".join(f"{key} {_short(value)}" for key, value in figures.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(trainings: dict[str, dict[str, Any]]) -> Table:
    shown = Table(*HEADS)
    for column in shown.columns[1:]:
        column.justify = "right"
    for name, row in trainings.items():
        if "seconds" not in row:
            shown.add_row(name, row.get("error", "left out")[:40])
            continue
        like = trainings.get(row.get("like", ""), {}).get("seconds")
        shown.add_row(
            name,
            f"{row['seconds']:.3f}",
            f"{row['images_per_second']:.2f}",
            f"{row['share_of_roofline']:.0%}",
            size_text(row["peak_bytes"]) if "peak_bytes" in row else "-",
            size_text(row["estimated_bytes"]),
            f"{like / row['seconds']:.2f} x" if like else "",
            f"{row['first_step_seconds']:.1f} s",
        )
    return shown


def lines(found: dict[str, Any]) -> list[str]:
    """What a table does not say. found: all that stands in the JSON."""
    told = [*_memory(found), *_noise(found), *_presets(found)]
    told += [f"left out: {name} ({reason})" for name, reason in found["left_out"].items()]
    return told


def error_of_the_estimate(trainings: dict[str, dict[str, Any]]) -> list[float]:
    """Measured peaks as multiples of what `check` estimates for a step."""
    return [row["peak_bytes"] / row["estimated_bytes"] for row in trainings.values() if "peak_bytes" in row]


def _memory(found: dict[str, Any]) -> list[str]:
    rows = [row for row in found["trainings"].values() if "peak_bytes" in row]
    if not rows:
        return []
    ratios = error_of_the_estimate(found["trainings"])
    beyond = [row["reserved_bytes"] - row["peak_bytes"] + row["other_bytes"] for row in rows]
    return [
        f"memory: steps took {min(ratios):.2f} to {max(ratios):.2f} of what `check` says; the allocator's gaps, CUDA "
        f"itself and other programs {size_text(min(beyond))} to {size_text(max(beyond))} more"
    ]


def _noise(found: dict[str, Any]) -> list[str]:
    told = []
    for name, figures in found.get("noise", {}).items():
        took = {way: f["milliseconds"] for way, f in figures.items() if isinstance(f, dict)}
        for way in (way for way in took if f"published {way}" in took):
            theirs = took[f"published {way}"]
            told.append(
                f"noise, {name}, {way}: {took[way]:.3g} ms, plain {took['plain']:.3g}, the published way {theirs:.3g} "
                f"({theirs / took[way]:.1f} x)"
            )
    return told


def _presets(found: dict[str, Any]) -> list[str]:
    """For each family and purpose the preset of the largest card that fits this one."""
    device = found["device"]
    if device["kind"] != "cuda":
        return []
    worst = max([1.0, *error_of_the_estimate(found["trainings"])])
    room = device["memory"] - device["memory_of_others"]
    told: dict[tuple[str, str], str] = {}
    for preset in all_presets():  # by the size of their cards
        if preset.memory * 1e9 * worst <= room:
            told[preset.family, preset.purpose] = preset.name
    names = {"sd15": NAMES["sd1"], "sdxl": NAMES["sdxl"]}
    nothing = [
        f"no preset for {names.get(family, family)} and {purpose} fits this card"
        for family in choices("family")
        for purpose in choices("purpose")
        if (family, purpose) not in told and any((p.family, p.purpose) == (family, purpose) for p in all_presets())
    ]
    return [f"a preset that fits: python launch.py preset {name}" for name in told.values()] + nothing
