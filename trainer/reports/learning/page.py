"""Writes the learning report: learning-report.json for programs, learning-report.html for people."""

from __future__ import annotations

import json
from collections.abc import Sequence

from trainer.files.atomic import write_text
from trainer.journal.run_dir import RunDir
from trainer.reports.html import (
    Figure,
    Html,
    Mood,
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
from trainer.reports.learning.findings import Checkpoint, Learning, percent
from trainer.reports.learning.interval import LossReduction
from trainer.reports.plot import Axis, Marker, Series, line_plot

FEW = 20  # held-out images below which the page warns
EXTREMES = 5  # images that are listed from each end
MOST_ROWS = 40  # checkpoints that the table lists


def write(found: Learning, run_dir: RunDir) -> None:
    files = sorted(run_dir.path.glob(f"{run_dir.best.name}*"))
    write_text(run_dir.learning_numbers, json.dumps(found.as_dict(), indent=1))
    write_text(run_dir.learning_page, render(found, run_dir.name, files[0].name if files else ""))


def render(found: Learning, name: str, best_file: str = "") -> Html:
    """The whole document. `best_file`: what the best state was saved as."""
    return page(
        f"What {name} learned",
        *_advice(found, best_file),
        figures(_figures(found)),
        _over_the_run(found),
        _by_noise(found),
        _images(found),
        _checkpoints(found),
        _method(found),
        lead=f"{found.verdict[:1].upper()}{found.verdict[1:]}.",
    )


def _advice(found: Learning, best_file: str) -> list[Html]:
    """What to do about it."""
    use = f"The result to use is that of step {found.best}" + (f", saved as {best_file}." if best_file else ".")
    advice = []
    if found.memorising_since is not None:
        advice.append(
            callout(
                element("strong", f"Memorising since step {found.memorising_since}."),
                "From there on images that were trained still got better, and images that were not got worse: the run "
                f"learned its pictures by heart. {use} Fewer steps, a lower learning rate, a lower rank or more images "
                "put this off.",
                mood="caution",
            )
        )
    elif found.worsening_since is not None:
        advice.append(
            callout(
                element("strong", f"Getting worse since step {found.worsening_since}."),
                f"Held-out images got worse, and training images no better. {use} A lower learning rate is the first "
                "thing to try.",
                mood="bad",
            )
        )
    elif found.still_improving:
        advice.append(
            callout(
                element("strong", "Still improving at the end."),
                "The last measurement is clearly better than the one before. More steps may bring more.",
                mood="good",
            )
        )
    elif found.plateau_since is not None:
        advice.append(callout(*_plateau(found), mood="caution" if found.training_gained else ""))
    elif found.best != found.last.step:
        advice.append(callout(use))
    if found.images < FEW:
        advice.append(
            callout(f"Only {found.images} images were held out. With more of them the intervals would be narrower.")
        )
    return advice


def _plateau(found: Learning) -> list[object]:
    gained = (
        "The images that train went on getting better, so what was learned after that is about them alone."
        if found.training_gained
        else "The images that train did not get better either."
        if found.training_images
        else ""
    )
    return [
        element("strong", f"No measurable gain since step {found.plateau_since}."),
        f"The lowest loss is that of step {found.best}, but on these {found.images} images it cannot be told from that "
        f"of step {found.plateau_since}. {gained} A shorter run may do as well.",
    ]


def _figures(found: Learning) -> list[Figure]:
    best, last = found.at(found.best), found.last
    items = [_figure(best, f"over the base at step {best.step}, the best", best.improvement)]
    if last is not best:
        items.append(_figure(last, f"over the base at step {last.step}, the last", last.improvement))
    if last.training_improvement is not None:
        items.append(
            Figure(
                _signed(last.training_improvement.mean),
                f"on {found.training_images} images that train, at step {last.step}",
                "far above the held-out images: memorised" if found.memorising_since is not None else "for comparison",
            )
        )
    base = "" if found.base_loss is None else f"the base: {found.base_loss:.4f}"
    items.append(Figure(f"{best.loss:.4f}", f"held-out loss at step {best.step}", base))
    return items


def _figure(at: Checkpoint, label: str, change: LossReduction | None) -> Figure:
    if change is None:
        return Figure(f"{at.loss:.4f}", label.replace("over the base", "held-out loss"))
    mood: Mood = "good" if change.better else "bad" if change.worse else ""
    return Figure(_signed(change.mean), label, _interval(change), mood)


def _over_the_run(found: Learning) -> Html:
    markers = [Marker(found.best, f"best: {found.best}")] if len(found.checkpoints) > 1 else []
    since = found.memorising_since if found.memorising_since is not None else found.worsening_since
    if since is not None:
        markers.append(Marker(since, "memorising" if found.memorising_since is not None else "worse"))
    if found.base_loss is None:
        series = [_losses("held-out images", found.checkpoints)]
        plot = line_plot("Held-out loss", series, Axis("step", high=found.last.step), Axis("loss"), markers=markers)
        return section("Over the run", plot, paragraph("The base was not measured.", quiet=True))
    series = [_course("held-out images", found.checkpoints, [c.improvement for c in found.checkpoints], strong=True)]
    if found.training_images:
        training = [c.training_improvement for c in found.checkpoints]
        series.append(_course("training images", found.checkpoints, training))
    held = line_plot(
        "Better than the base by",
        series,
        Axis("step", zero=True, high=found.last.step),
        Axis("%", zero=True, high=_headroom(series)),
        remark="Shaded: 95 % intervals. Above 0 is better than the untouched base.",
        markers=markers,
    )
    return section("Over the run", side_by_side(held, _bins_plot(found)))


def _headroom(series: Sequence[Series]) -> float:
    """Above all lines, so that the markers' labels have a place."""
    return max(1e-3, *(1.2 * value for one in series for value in (*(one.high or ()), *one.y) if value is not None))


def _losses(label: str, checkpoints: Sequence[Checkpoint]) -> Series:
    return Series(label, [c.step for c in checkpoints], [c.loss for c in checkpoints], points=True)


def _course(
    label: str, checkpoints: Sequence[Checkpoint], changes: Sequence[LossReduction | None], *, strong: bool = False
) -> Series:
    """In percent, from 0 at the base."""
    known = [change for change in changes if change is not None]
    bounded = all(change.low is not None and change.high is not None for change in known)
    return Series(
        label,
        [0, *(c.step for c in checkpoints)],
        [0, *(100 * change.mean for change in known)],
        low=[0, *(100 * (change.low or 0) for change in known)] if bounded else None,
        high=[0, *(100 * (change.high or 0) for change in known)] if bounded else None,
        points=len(checkpoints) <= 30,
        strong=strong,
    )


def _bins_plot(found: Learning) -> Html:
    slices = found.last.bins
    series = []
    for index, one in enumerate(slices):
        changes = [c.bins[index].improvement for c in found.checkpoints]
        values = [None if change is None else 100 * change.mean for change in changes]
        label = f"{one.low} to {one.high - 1}"
        series.append(Series(label, [0, *(c.step for c in found.checkpoints)], [0, *values]))
    return line_plot(
        "The same by timestep",
        series,
        Axis("step", zero=True, high=found.last.step),
        Axis("%", zero=True),
        remark="Held-out images. Low timesteps are fine detail, high ones layout and colour.",
        ramp=True,
    )


def _by_noise(found: Learning) -> Html:
    best, last = found.at(found.best), found.last
    head = ["timesteps", "", f"loss, step {best.step}", f"over the base, step {best.step}"]
    both = last is not best
    if both:
        head.append(f"over the base, step {last.step}")
    words = _words(len(best.bins))
    rows = []
    for index, one in enumerate(best.bins):
        row = [f"{one.low} to {one.high - 1}", words[index], f"{one.loss:.4f}", _change(one.improvement)]
        rows.append([*row, _change(last.bins[index].improvement)] if both else row)
    return section(
        "By noise level",
        paragraph("Where the run learned. A picture begins at the highest timestep and is finished at the lowest."),
        table(head, rows, text_columns=(0, 1)),
    )


def _words(count: int) -> list[str]:
    return ["fine detail", *[""] * (count - 2), "layout and colour"][:count]


def _images(found: Learning) -> Html:
    if not found.changes:
        return Html("")
    better = sum(change.improvement > 0 for change in found.changes)
    head = ["held-out image", "base", f"step {found.best}", "better by"]
    rows = [[c.name, f"{c.base_loss:.4f}", f"{c.loss:.4f}", f"{100 * c.improvement:+.1f} %"] for c in found.changes]
    few = len(rows) <= 2 * EXTREMES
    shown = rows if few else [*rows[:EXTREMES], ["...", "", "", ""], *rows[-EXTREMES:]]
    rest = "" if few else details(f"All {len(rows)} images", table(head, rows))
    return section(
        "Image by image",
        paragraph(f"{better} of {len(rows)} held-out images are better at step {found.best} than with the base."),
        table(head, shown),
        rest,
    )


def _checkpoints(found: Learning) -> Html:
    head = ["step", "held-out loss", "over the base", "training images", "over the base", ""]
    step = max(1, -(-len(found.checkpoints) // MOST_ROWS))
    kept = [c for i, c in enumerate(found.checkpoints) if not i % step or c.step in (found.best, found.last.step)]
    rows: list[list[object]] = []
    marked = []
    if found.base_loss is not None:
        seen = "" if found.base_training_loss is None else f"{found.base_training_loss:.4f}"
        rows.append(["base", f"{found.base_loss:.4f}", "", seen, "", ""])
    for one in kept:
        if one.step == found.best:
            marked.append(len(rows))
        seen = "" if one.training_loss is None else f"{one.training_loss:.4f}"
        rows.append(
            [
                one.step,
                f"{one.loss:.4f}",
                _change(one.improvement),
                seen,
                _change(one.training_improvement),
                "best" if one.step == found.best else "",
            ]
        )
    return section("Checkpoints", table(head, rows, text_columns=(5,), marked=marked))


def _method(found: Learning) -> Html:
    images, draws = found.images, found.draws
    training = (
        f"{found.training_images} images that do train are asked in the same way. When they go on getting better while "
        "the held-out ones get worse, the run memorises."
    )
    points = [
        f"{images} images never trained. Each is asked {draws} times: noise is added at a known timestep and the model "
        "has to tell it from the picture; the loss is the mean squared error of its answer.",
        "Images, captions, noises and timesteps are the same for the base and for every step, so that only the model "
        "differs. The noise is always plain Gaussian, whatever noise settings the run trains with.",
        training if found.training_images else "No training images were measured, so memorising cannot be told apart.",
        "The intervals come from drawing other sets of the held-out images at random (bootstrap over whole images). "
        "They say how far the result would move with other images, not with another training seed.",
        "A lower loss means that the model knows this kind of picture better. It does not measure taste: look at the "
        "samples too.",
    ]
    compare = element("code", "python -m trainer compare RUN_A RUN_B")
    return section(
        "How this was measured",
        bullets(points),
        paragraph(
            joined(["Whether a setting helped is told by ", compare, " for two runs with the same held-out images."])
        ),
    )


def _signed(share: float) -> str:
    return percent(LossReduction(share), signed=True).partition(" (")[0]


def _interval(change: LossReduction) -> str:
    return percent(change, signed=True).partition("(")[2].rstrip(")")


def _change(change: LossReduction | None) -> str:
    if change is None:
        return ""
    return _signed(change.mean) if change.low is None else percent(change, signed=True)
