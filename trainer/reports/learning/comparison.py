"""Compares two runs that were asked the same questions: which one knows the held-out images better, and how surely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.errors import UserError
from trainer.reports.learning.findings import learning, percent
from trainer.reports.learning.interval import LossReduction, improvement
from trainer.validation.measurements import Answers, AskedImage, Losses, Measurements, Questions


@dataclass(frozen=True)
class RunComparison:
    """How much lower the loss of the second run is than that of the first."""

    images: int
    first_step: int
    second_step: int
    first_loss: float
    second_loss: float
    difference: LossReduction  # above 0: the second is better


def compare(first: Measurements, second: Measurements) -> list[RunComparison]:
    """After the same number of steps (the last that both measured), and each at its best, where that is another pair.

    Raises UserError when the two did not measure the same images in the same way.
    """
    rows = common(first.questions, second.questions)
    steps = [{c.step for c in one.checkpoints if c.step is not None} for one in (first, second)]
    pairs = [(max(steps[0] & steps[1]),) * 2] if steps[0] & steps[1] else []
    told = [learning(one) for one in (first, second)]
    if told[0] is not None and told[1] is not None:
        best = (told[0].best, told[1].best)
        pairs += [] if best in pairs else [best]
    if not pairs:
        raise UserError("compare: one of the runs has not measured anything yet.")
    return [_compared(rows, first.at(one), second.at(other)) for one, other in pairs]


@dataclass(frozen=True)
class Rows:
    """Which rows of the first run's answers stand beside which of the second's: the held-out pictures of both."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    names: tuple[str, ...]


def common(first: Questions, second: Questions) -> Rows:
    """Raises UserError when too little is the same for a fair comparison."""
    if first.objective != second.objective:
        raise UserError(
            f"compare: the first run predicts {first.objective}, the second {second.objective}; their losses measure "
            "different things."
        )
    if (first.seed, first.schedule) != (second.seed, second.schedule):
        raise UserError("compare: the runs measured with different noises; train both with one validation.seed.")
    places = {picture: row for row, picture in enumerate(second.pictures)}
    shared = [(row, places[picture], picture) for row, picture in enumerate(first.pictures) if picture in places]
    held = [(one, other, picture) for one, other, picture in shared if picture.held_out]
    only = {_key(p) for p in (*first.pictures, *second.pictures) if p.held_out} - {_key(p) for _, _, p in held}
    if only:
        raise UserError(
            f"compare: {len(only)} held-out images are not the same in both runs, such as {min(only)[0]}. What one run "
            "holds out the other may have trained on. Train both with the same images, captions, resolution and "
            "[validation]."
        )
    return Rows(
        tuple(one for one, _, _ in held), tuple(other for _, other, _ in held), tuple(p.name for _, _, p in held)
    )


def _key(picture: AskedImage) -> tuple[str, tuple[int, int]]:
    return picture.name, picture.size


def _compared(rows: Rows, first: Answers, second: Answers) -> RunComparison:
    before: Losses = first.losses[np.array(rows.first)]
    after: Losses = second.losses[np.array(rows.second)]
    assert first.step is not None
    assert second.step is not None
    return RunComparison(
        images=len(set(rows.names)),
        first_step=first.step,
        second_step=second.step,
        first_loss=float(before.mean()),
        second_loss=float(after.mean()),
        difference=improvement(before, after, rows.names),
    )


def lines(found: list[RunComparison], first: str, second: str) -> list[str]:
    """The comparison in plain words; `first` and `second`: the names of the runs."""
    told = []
    for one in found:
        where = f"at step {one.first_step}"
        if one.first_step != one.second_step:
            where = f"each at its best (step {one.first_step} and {one.second_step})"
        told.append(f"{where}: {_sentence(one, first, second)}")
        told.append(f"  held-out loss {one.first_loss:.5f} ({first}), {one.second_loss:.5f} ({second})")
    return [
        *told,
        f"Paired on {found[0].images} held-out images with the same plain noise. The interval tells how far other "
        "images would move the result; one training seed each: other seeds can differ by more. Repeat both with other "
        "run.seed values before you believe a small difference.",
    ]


def _sentence(one: RunComparison, first: str, second: str) -> str:
    found = one.difference
    if found.low is None:
        return f"{second} against {first}: {percent(found, signed=True)}"
    if found.better:
        return f"{second} is better than {first} by {percent(found)}"
    if found.worse:
        return f"{second} is worse than {first} by {percent(found.negative)}"
    return f"no measurable difference between {first} and {second}: {percent(found, signed=True)}"


def settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What differs between two configs, as "key: first -> second"; names and folders of the runs aside."""
    one, other = (dict(_flat(config)) for config in (first, second))
    keys = sorted((one.keys() | other.keys()) - {"run.name", "run.output_dir"})
    return [
        f"{key}: {one.get(key, 'not set')} -> {other.get(key, 'not set')}"
        for key in keys
        if one.get(key) != other.get(key)
    ]


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _flat(value, f"{prefix}.{key}".lstrip("."))
    elif isinstance(config, list) and config and isinstance(config[0], Mapping):
        for number, value in enumerate(config):
            yield from _flat(value, f"{prefix}[{number}]")
    else:
        yield prefix, config
