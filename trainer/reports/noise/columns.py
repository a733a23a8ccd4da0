"""The columns of the noise report's tables: what stands in them and how it is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.reports.noise.comparison import Compared, NoiseReport, Setting

UNITS = ("bytes", "KB", "MB", "GB")


@dataclass(frozen=True)
class Column:
    head: str
    cell: Callable[[Setting], str]
    meaning: str = ""


def value_of(stage: Compared) -> Column:
    return Column(stage.headline, lambda s: f"{s.value}{' (yours)' if s.configured else ''}")


EFFECT = (
    Column(
        "distance",
        lambda s: f"{-s.effect.distance_drop_percent:+.2f} %",
        "how much nearer the noise lies to its latent than plain noise does, on average",
    ),
    Column(
        "alignment, sigma",
        lambda s: f"{s.effect.alignment_sigma:.2f}",
        "the noise's mean along the direction of its latent, in standard deviations of plain noise; 0 for plain noise. "
        "It depends on the setting and hardly on the size of the latents",
    ),
    Column("cosine", lambda s: f"{s.effect.cosine:.4f}", "between noise and latent; 0 for plain noise"),
    Column(
        "pull",
        lambda s: f"{100 * s.effect.pull:.2f} %",
        "how much of the image is in its noise: noise = pull x latent + the rest. For a pool it is counted towards "
        "what sets an image apart from the mean of all, since a pool has no pull towards what they share",
    ),
    Column(
        "of the authors'",
        lambda s: f"{s.strength:.2f} x",
        "the pull compared with the authors' choice for Stable Diffusion, the nearest of 64 at 4x32x32",
    ),
    Column(
        "variance",
        lambda s: f"{s.effect.variance_change_percent:+.1f} %",
        "of the noise, which is 1 for plain noise and 1 again when images are drawn",
    ),
    Column(
        "drift, sigma",
        lambda s: f"{s.effect.drift_sigma:.2f}",
        "length of the mean of all noises over all images; 0 for plain noise. It grows when images are few or alike",
    ),
    Column(
        "information, nats",
        lambda s: nats(s.information),
        "what the noise can tell about its image at most; telling N images apart takes ln N",
    ),
)
COST = (
    Column("ms", lambda s: f"{s.milliseconds:.3g}", "added to one micro-batch on this device, pools shared out"),
    Column("memory", lambda s: size(s.extra_bytes), "held for a moment by one call, on top of the plain noise"),
)


def acts_as(report: NoiseReport) -> tuple[Column, ...]:
    def column(t: int) -> Column:
        told = report.schedule.told
        return Column(f"t = {told(t)} acts as", lambda s: told(s.acts_as[t]))

    return tuple(map(column, report.schedule.landmarks))


def snr(report: NoiseReport) -> tuple[Column, ...]:
    def column(t: int) -> Column:
        def cell(s: Setting) -> str:
            found = s.snr_multiplier[t]
            return "from none" if found is None else f"x {found:.2f}"

        return Column(f"SNR at {report.schedule.told(t)}", cell)

    return tuple(map(column, report.schedule.landmarks))


def nats(information: float | None) -> str:
    if information is None:
        return "?"
    return "all" if math.isinf(information) else f"{information:.2f}"


FLOW = Column("flow: t = 1 acts as", lambda s: f"{s.flow_time:.3f}")


def size(count: int | None) -> str:
    """1536 -> 1.5 KB"""
    if count is None:
        return "?"
    value, unit = float(count), UNITS[0]
    for unit in UNITS:
        if value < 1024 or unit == UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == UNITS[0] or value >= 100 else f"{value:.1f} {unit}"


def lines(report: NoiseReport) -> list[str]:
    """The report's tables for a terminal."""
    t = acts_as(report)
    shown = (EFFECT[0], EFFECT[1], EFFECT[4], EFFECT[5], EFFECT[6], t[1], t[3], *COST)
    found = []
    for stage in report.stages:
        columns = (value_of(stage), *shown)
        rows = [[c.head for c in columns], *([c.cell(s) for c in columns] for s in stage.settings)]
        found += ["", f"{stage.name}:", *_aligned(rows)]
    return found


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, all right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
