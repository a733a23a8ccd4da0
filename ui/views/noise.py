"""What the noise page shows beside its controls: the effect of k as a curve and in words, the law of the timesteps."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np

from trainer.reports.plot import SMALL, Axis, Marker, Series, line_plot
from ui.draft.fields import UNSET, all_fields, from_control
from ui.draft.session import Page
from ui.server.media import Media
from ui.work.noise_numbers import Numbers, Point

K = "noise.oversampling.k"
BINS = 40
TIMESTEPS = ("min", "max", "distribution", "mean", "std", "alpha", "beta", "weights", "shift")
PICTURES = {
    "latent": "an image's latent",
    "plain": "a plain noise",
    "chosen": "the chosen noise",
    "average-plain": "average of {} plain noises",
    "average-chosen": "average of {} chosen noises: the image shows through",
}


def chosen_k(page: Page) -> int:
    value = from_control(all_fields()[K], page.controls[K])
    return value if isinstance(value, int) and value > 1 else 0


def curve_html(numbers: Numbers, k: int) -> str:
    x, y = [p.k for p in numbers.points], [p.distance_drop for p in numbers.points]
    markers = [Marker(k, f"k = {k}")] if k else []
    line = Series("distance drop", x, y, points=True)
    title = "How much nearer the noise is to its image, in %"
    across = Axis("candidates k", "log", ticks=[2.0**n for n in range(1, 17) if x and min(x) <= 2**n <= max(x)])
    return line_plot(title, [line], across, Axis("", zero=True), markers=markers, size=SMALL)


def words_html(numbers: Numbers, k: int) -> str:
    """What the chosen k buys and costs, in sentences."""
    shape = " x ".join(str(n) for n in numbers.shape)
    images = numbers.images
    where = (
        f"measured on {images} of your images"
        if images
        else "calculated for Stable Diffusion's latents of this size; measure for another family"
    )
    lines = [f"<p class='quiet'>Latents of {shape}, {where}.</p>"]
    point = numbers.at(k)
    if point is None:
        lines.append("<p>Noise Oversampling is off: every image gets the plain noise that is drawn first.</p>")
    else:
        lines.append(_effect(point))
    lines.append(
        "<p class='quiet'>A lower training loss under Noise Oversampling is no sign of better images: the task itself "
        "becomes a little easier. Compare by validation and by samples.</p>"
    )
    return "".join(lines)


def _effect(point: Point) -> str:
    said = (
        f"<p>With <b>k = {point.k}</b> the noise is {point.distance_drop:.2f} % nearer to its image and leans towards "
        f"it by {point.alignment:.2f} sigma. It acts <b>{point.strength:.2g} times</b> as strongly as in the authors' "
        "setting (k = 64 on latents of 4 x 32 x 32).</p>"
    )
    shifts = [(t, v) for t, v in point.acts_as.items() if t.isdigit()]
    if shifts:
        told = ", ".join(f"{t} acts as {v:.0f}" for t, v in shifts)
        said += f"<p>For the model it is a slightly less noisy picture: timestep {told}.</p>"
    cost = "no measurable time" if point.milliseconds is None else f"{point.milliseconds:.2f} ms a batch"
    return f"{said}<p>It costs {cost}, whatever k is.</p>"


def pictures_html(media: Media, folder: Path) -> str:
    """The pictures that the measurement made, "" where there are none."""
    found = []
    for name, text in PICTURES.items():
        for file in sorted(folder.glob(f"{name}*.png")):
            count = file.stem.removeprefix(name).strip("-")
            if count == "" or count.isdigit():
                found.append((file, text.format(f"{int(count):,}" if count else "")))
    if not found:
        return ""
    cells = "".join(
        f"<figure><img class='pixels' src='{media.url('image', file)}' alt='{html.escape(text, quote=True)}'>"
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
        for file, text in found
    )
    return f"<div class='pictures'>{cells}</div>"


def timesteps_html(page: Page) -> str:
    """How often each timestep is drawn with the settings of the form; "" while they are wrong."""
    fields = {name: all_fields()[f"timesteps.{name}"] for name in TIMESTEPS}
    values = {name: from_control(field, page.controls[field.key]) for name, field in fields.items()}
    if any(problem.control.startswith("timesteps.") for problem in page.problems):
        return "<p class='quiet'>The plot comes back when these settings are valid.</p>"
    counts, edges = shares({name: fields[name].default if value is UNSET else value for name, value in values.items()})
    middle = (edges[1:] + edges[:-1]) / 2
    line = Series("times as often as on average", middle, counts)
    title = "How often each timestep is drawn (1 = evenly)"
    return line_plot(title, [line], Axis("timestep"), Axis("", zero=True), size=SMALL)


def shares(values: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(density relative to an even draw, edges of the bins) for settings of [timesteps]."""
    import torch

    from trainer.training.timesteps import TimestepSampler

    rest = {name: value for name, value in values.items() if name not in ("min", "max")}
    drawn = TimestepSampler(low=values["min"], high=values["max"], **rest).at((torch.arange(20_000) + 0.5) / 20_000)
    counts, edges = np.histogram(drawn.numpy(), bins=BINS, range=(0, 1000))
    return counts / counts.mean(), edges
