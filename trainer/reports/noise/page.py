"""Writes the noise report as a page: what pairing would do to one's own images, and what to make of it."""

from __future__ import annotations

import math

import numpy as np

from trainer.reports.html import (
    Figure,
    Html,
    bullets,
    callout,
    details,
    element,
    figures,
    joined,
    page,
    paragraph,
    section,
    side_by_side,
    table,
)
from trainer.reports.noise.advice import KNOWN, LOSS, REFERENCE, advice, headline
from trainer.reports.noise.columns import COST, EFFECT, FLOW, Column, acts_as, snr, value_of
from trainer.reports.noise.comparison import Compared, NoiseReport, Setting
from trainer.reports.noise.shift import REFERENCE_PULL
from trainer.reports.plot import Axis, Bar, Marker, Series, bar_plot, line_plot

MOST_LINES = 6  # in a plot over timesteps
CURVE = 60  # points of it


def noise_page(report: NoiseReport, name: str) -> str:
    """A self-contained HTML page about the run `name`."""
    return page(
        f"Noise report: {name}",
        _overview(report),
        section("What it means", *_advice(report)),
        section("How strong it is", *_plots(report)),
        *(_tables(report, stage) for stage in report.stages),
        section(
            "What is known, and what is not",
            callout(LOSS, mood="caution"),
            bullets(KNOWN),
        ),
        section("How this was measured", *_method(report)),
        lead=headline(report),
    )


def _overview(report: NoiseReport) -> Html:
    others = report.total_images - report.images
    shape = " x ".join(map(str, report.shape))
    items = [
        Figure(f"{report.images:,}", "images looked at", f"of {report.total_images:,}" if others else "all there are"),
        Figure(f"{report.dimension:,}", "numbers in a latent", shape),
        Figure(f"{report.latent_rms:.2f}", "size of these numbers", "root mean square; plain noise: 1"),
        Figure(
            f"{100 * report.common_share:.0f} %",
            "of it is the common look",
            "the same in all images" if report.images > 1 else "unknown from one image",
        ),
    ]
    if report.configured is not None:
        stage, s = report.configured
        t = len(report.schedule) // 2
        acts, told = report.schedule.acts_as(t, s.effect.pull, s.effect.scale), report.schedule.told
        items += [
            Figure(f"{told(t)} \u2192 {told(acts)}", "timestep, with your setting", f"{stage.name}, {stage.label(s)}"),
            Figure(f"{s.strength:.2f} x", "the authors' strength", REFERENCE),
        ]
    return figures(items)


def _advice(report: NoiseReport) -> list[Html]:
    return [callout(element("p", element("b", one.head), ". ", one.text), mood=one.mood) for one in advice(report)]


def _plots(report: NoiseReport) -> list[Html]:
    counted = [s for s in report.stages if len(_numbered(s)) > 1]
    found = [_over_timesteps(report, stage) for stage in report.stages if stage.settings]
    if counted:
        found += [_pull(report, counted), _alignment(counted), _drift(counted), _time(report)]
    return [
        paragraph(
            "Paired noise contains a little of its image. The network therefore sees, at every timestep, an input that "
            "is less noisy than the timestep says."
        ),
        side_by_side(*found),
    ]


def _numbered(stage: Compared) -> list[Setting]:
    return [s for s in stage.settings if isinstance(s.value, int)]


def _over_timesteps(report: NoiseReport, stage: Compared) -> Html:
    """How many timesteps earlier each setting acts, over the schedule."""
    chosen, schedule = _spread(list(stage.settings)), report.schedule
    last = len(schedule) - 1
    place = schedule.place
    at = sorted({round(v) for v in np.linspace(0, last, CURVE)})
    series = []
    for s in chosen:
        inside = [stage.acts_from <= t <= stage.acts_to for t in at] if s.configured else [True] * len(at)
        shift = [
            place(t) - place(schedule.acts_as(t, s.effect.pull, s.effect.scale)) if acts else 0.0
            for t, acts in zip(at, inside, strict=True)
        ]
        label = f"{stage.label(s)}{' (yours)' if s.configured else ''}"
        series.append(Series(label, [place(t) for t in at], shift, strong=s.configured))
    lowest = min(y for one in series for y in one.y if y is not None)
    name, unit = ("time s", "of the way") if schedule.flow else ("timestep t", "timesteps")
    return line_plot(
        f"{stage.name}: {unit} that the input is ahead",
        series,
        Axis(f"{name} (0 = image, right = noise)", low=0, high=place(last), ticks=_quarters(place(last))),
        # A pool leaves the noise its full energy, which counts for a hair at the clean end.
        Axis(f"{unit} earlier", zero=True, low=0 if lowest > -place(last) / last else None),
        remark=f"Against plain noise, by equal signal-to-noise ratio, with the base's schedule ({report.objective}).",
        ramp=True,
    )


def _quarters(last: float) -> list[float]:
    if last == 1:
        return [0, 0.25, 0.5, 0.75, 1]
    return [0, *(round((last + 1) * n / 4) for n in (1, 2, 3)), last]


def _spread(settings: list[Setting]) -> list[Setting]:
    """At most MOST_LINES of them, evenly spread, the run's own among them."""
    if len(settings) <= MOST_LINES:
        return settings
    picked = {round(v) for v in np.linspace(0, len(settings) - 1, MOST_LINES)}
    own = next((i for i, s in enumerate(settings) if s.configured), None)
    if own is not None and own not in picked:
        picked.remove(min(picked, key=lambda i: abs(i - own)))
        picked.add(own)
    return [settings[i] for i in sorted(picked)]


def _over_values(title: str, stages: list[Compared], y: Axis, height: object, remark: str, *extra: Series) -> Html:
    """One line per stage over its values, with the run's own setting marked."""
    assert callable(height)
    series = [
        Series(
            f"{s.name} ({s.headline})", [n.value for n in _numbered(s)], [height(n) for n in _numbered(s)], points=True
        )
        for s in stages
    ]
    markers = [Marker(own.value, "yours") for s in stages if (own := s.configured) in _numbered(s) and own is not None]
    return line_plot(title, [*series, *extra], Axis(_headlines(stages), "log"), y, remark=remark, markers=markers)


def _headlines(stages: list[Compared]) -> str:
    return " or ".join(dict.fromkeys(s.headline for s in stages))


def _pull(report: NoiseReport, stages: list[Compared]) -> Html:
    values = [n.value for s in stages for n in _numbered(s)]
    reference = Series(REFERENCE, [min(values), max(values)], [100 * REFERENCE_PULL] * 2, dashed=True)
    return _over_values(
        "Share of the image in its noise",
        stages,
        Axis("pull, %", zero=True),
        lambda n: 100 * n.effect.pull,
        "Noise = pull x image + the rest; for a pool, x what sets the image apart from all. "
        f"Smaller for larger images; here they hold {report.dimension:,} numbers.",
        reference,
    )


def _alignment(stages: list[Compared]) -> Html:
    return _over_values(
        "Lean towards the image",
        stages,
        Axis("sigma", zero=True),
        lambda n: n.effect.alignment_sigma,
        "In standard deviations of plain noise, along the direction of the image: much the same at any image size.",
    )


def _drift(stages: list[Compared]) -> Html:
    return _over_values(
        "Drift of the mean noise",
        stages,
        Axis("sigma", zero=True),
        lambda n: n.effect.drift_sigma,
        "Over all images. Drawn images start from noise without any.",
    )


def _time(report: NoiseReport) -> Html:
    bars = [Bar("plain noise", report.plain_milliseconds, f"{report.plain_milliseconds:.2g} ms")]
    for stage in report.stages:
        bars += [
            Bar(f"+ {stage.name}, {stage.label(s)}", s.milliseconds, f"{s.milliseconds:.2g} ms", strong=s.configured)
            for s in _ends(stage)
        ]
    return bar_plot(
        f"Time for a micro-batch of {report.batch_size}",
        bars,
        remark=f"On {report.device}. The work of a pool is shared out among its micro-batches.",
    )


def _ends(stage: Compared) -> list[Setting]:
    """The first, the last, one between, and the run's own."""
    count = len(stage.settings)
    return [s for i, s in enumerate(stage.settings) if i in {0, count // 2, count - 1} or s.configured]


def _tables(report: NoiseReport, stage: Compared) -> Html:
    first = value_of(stage)
    marked = [i for i, s in enumerate(stage.settings) if s.configured]

    def made(columns: tuple[Column, ...], caption: str) -> Html:
        rows = [[c.cell(s) for c in (first, *columns)] for s in stage.settings]
        return table([c.head for c in (first, *columns)], rows, marked=marked, caption=caption)

    ending = "; from none: plain noise leaves no signal there" if report.pure_noise_at_the_end else ""
    return section(
        f"{stage.name} in numbers",
        made((*EFFECT, *COST), "What it does to the noise, and what it costs"),
        made(
            (*acts_as(report), *snr(report), *([] if report.schedule.flow else [FLOW])),
            "The plain timestep that each timestep acts as, and the signal-to-noise ratio (of powers) against plain "
            f"noise{ending}",
        ),
    )


def _sizes(report: NoiseReport) -> str:
    if len(report.sizes) < 2:
        return ""
    (width, height), count = report.sizes[0]
    return (
        f"They are of the commonest size, {width}x{height} pixels, which {count:,} of all {report.total_images:,} "
        f"images have; {len(report.sizes) - 1} other sizes are left out, since only images of equal size are ever "
        "paired. Buckets of one resolution hold about as many numbers each and behave alike."
    )


def _method(report: NoiseReport) -> list[Html]:
    draws = max((s.effect.draws for stage in report.stages for s in stage.settings), default=0)
    meanings = [element("li", element("b", c.head), ": ", c.meaning) for c in (*EFFECT, *COST) if c.meaning]
    error = 100 * math.sqrt(1.5 / max(1, draws)) / math.sqrt(max(1, report.dimension))
    return [
        paragraph(
            f"Each setting was run about {draws:,} times on the latents of {report.images:,} images of one size, and "
            f"the noise it returned was measured. Chance moves the distances by about {error:.2g} %. {_sizes(report)}"
        ),
        details("What the columns mean", element("ul", joined(meanings))),
        paragraph(
            "The equivalent timestep is the one whose plain input has the same signal-to-noise ratio: noise = pull x "
            "latent + rest makes x_t = (alpha + sigma pull) latent + sigma rest.",
            quiet=True,
        ),
    ]
