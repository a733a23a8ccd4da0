"""Tells from a run's measurements whether it learned: better than the base or not, best checkpoint, memorising."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.reports.learning.interval import FEWEST, LossReduction, improvement
from trainer.validation.measurements import Answers, Losses, Measurements, Questions

BINS = 4  # equal slices of the noise schedule, clean to noisy
IN_A_ROW = 2  # checkpoints that must agree before a run is called memorising: one may be chance


@dataclass(frozen=True)
class Bin:
    """Timesteps low..high-1. `loss` is the mean over the held-out images' questions there."""

    low: int
    high: int
    loss: float
    improvement: LossReduction | None = None  # over the base, held-out images


@dataclass(frozen=True)
class Checkpoint:
    step: int
    loss: float  # held-out images
    training_loss: float | None  # a few training images, asked the same way
    improvement: LossReduction | None = None  # over the base, held-out images; None when the base was not measured
    training_improvement: LossReduction | None = None
    bins: tuple[Bin, ...] = ()


@dataclass(frozen=True)
class ImageChange:
    """One held-out image, base against the best checkpoint."""

    name: str
    base_loss: float
    loss: float

    @property
    def improvement(self) -> float:
        return 1 - self.loss / self.base_loss


@dataclass(frozen=True)
class Learning:
    """What the learning report shows. Nothing in it depends on the training loss."""

    images: int  # held out
    training_images: int
    draws: int
    seed: int
    schedule: int
    base_loss: float | None
    base_training_loss: float | None
    checkpoints: tuple[Checkpoint, ...]
    best: int  # step of the lowest held-out loss
    memorising_since: int | None  # held-out images get worse, training images still better
    worsening_since: int | None  # held-out images get worse, training images do not get better
    plateau_since: int | None  # from this step on nothing measurable was gained on held-out images
    training_gained: bool  # while the training images got measurably better
    still_improving: bool  # the last is the best, and measurably better than the one before
    changes: tuple[ImageChange, ...]  # most improved first
    verdict: str  # in plain words

    @property
    def last(self) -> Checkpoint:
        return self.checkpoints[-1]

    def at(self, step: int) -> Checkpoint:
        return next(c for c in self.checkpoints if c.step == step)

    def as_dict(self) -> dict[str, Any]:
        return {"format": 1, **asdict(self)}


def learning(found: Measurements) -> Learning | None:
    """None as long as no checkpoint was measured."""
    if not found.checkpoints:
        return None
    rows = _Rows(found.questions)
    checkpoints = tuple(_checkpoint(rows, found.base, answers) for answers in found.checkpoints)
    best = min(range(len(checkpoints)), key=lambda i: checkpoints[i].loss)
    memorising, worsening = _since(rows, found.checkpoints, best)
    plateau, gained = _plateau(rows, found.checkpoints, best)
    base = found.base
    numbers = Learning(
        images=len(set(rows.names(rows.held_out))),
        training_images=len(set(rows.names(~rows.held_out))),
        draws=found.questions.draws,
        seed=found.questions.seed,
        schedule=found.questions.schedule,
        base_loss=None if base is None else rows.mean(base.losses, rows.held_out),
        base_training_loss=None if base is None else rows.mean(base.losses, ~rows.held_out),
        checkpoints=checkpoints,
        best=checkpoints[best].step,
        memorising_since=memorising,
        worsening_since=worsening,
        plateau_since=plateau,
        training_gained=gained,
        still_improving=best == len(checkpoints) - 1 > 0 and _is_better(rows, *found.checkpoints[-2:]),
        changes=() if base is None else _changes(rows, base, found.checkpoints[best]),
        verdict="",
    )
    return Learning(**{**vars(numbers), "verdict": verdict(numbers)})


@dataclass(frozen=True)
class _Rows:
    """The questions, ready to be picked from."""

    questions: Questions

    @property
    def held_out(self) -> NDArray[np.bool_]:
        return self.questions.held_out

    def names(self, which: NDArray[np.bool_]) -> list[str]:
        return [p.name for p, chosen in zip(self.questions.pictures, which, strict=True) if chosen]

    def mean(self, losses: Losses, which: NDArray[np.bool_]) -> float | None:
        return float(losses[which].mean()) if which.any() else None

    def improvement(
        self,
        before: Answers,
        after: Answers,
        which: NDArray[np.bool_],
        where: NDArray[np.bool_] | None = None,
    ) -> LossReduction | None:
        if not which.any():
            return None
        asked = None if where is None else where[which]
        return improvement(before.losses[which], after.losses[which], self.names(which), asked)


def _checkpoint(rows: _Rows, base: Answers | None, answers: Answers) -> Checkpoint:
    held = rows.held_out
    assert answers.step is not None
    return Checkpoint(
        step=answers.step,
        loss=float(answers.losses[held].mean()),
        training_loss=rows.mean(answers.losses, ~held),
        improvement=None if base is None else rows.improvement(base, answers, held),
        training_improvement=None if base is None else rows.improvement(base, answers, ~held),
        bins=_bins(rows, base, answers),
    )


def _bins(rows: _Rows, base: Answers | None, answers: Answers) -> tuple[Bin, ...]:
    edges = [rows.questions.schedule * i // BINS for i in range(BINS + 1)]
    timesteps, held = rows.questions.timesteps, rows.held_out
    found = []
    for low, high in pairwise(edges):
        where = (timesteps >= low) & (timesteps < high)
        asked = where & held[:, None]
        if asked.any():
            change = None if base is None else rows.improvement(base, answers, held, where)
            found.append(Bin(low, high, float(answers.losses[asked].mean()), change))
    return tuple(found)


def _since(rows: _Rows, checkpoints: tuple[Answers, ...], best: int) -> tuple[int | None, int | None]:
    """(memorising, worsening) since which step: from there to the end all checkpoints are measurably worse than the
    best on held-out images; it is memorising when the training images still got better."""
    held, worse = rows.held_out, 0
    for answers in reversed(checkpoints[best + 1 :]):
        unseen = rows.improvement(checkpoints[best], answers, held)
        if unseen is None or not unseen.worse:
            break
        worse += 1
    if worse < IN_A_ROW:
        return None, None
    since = checkpoints[-worse].step
    seen = rows.improvement(checkpoints[best], checkpoints[-1], ~held)
    return (since, None) if seen is not None and seen.mean > 0 else (None, since)


def _plateau(rows: _Rows, checkpoints: tuple[Answers, ...], best: int) -> tuple[int | None, bool]:
    """The earliest step that the best one is not measurably better than, unless it is among the last `IN_A_ROW`; and
    whether the training images got measurably better from there to the end."""
    for answers in checkpoints[:-IN_A_ROW]:
        if _has_interval(rows) and not _is_better(rows, answers, checkpoints[best]):
            return answers.step, _is_better(rows, answers, checkpoints[-1], held_out=False)
    return None, False


def _has_interval(rows: _Rows) -> bool:
    return len(set(rows.names(rows.held_out))) >= FEWEST


def _is_better(rows: _Rows, before: Answers, after: Answers, *, held_out: bool = True) -> bool:
    found = rows.improvement(before, after, rows.held_out if held_out else ~rows.held_out)
    return found is not None and found.better


def _changes(rows: _Rows, base: Answers, best: Answers) -> tuple[ImageChange, ...]:
    names = np.array([p.name for p in rows.questions.pictures])
    found = []
    for name in dict.fromkeys(rows.names(rows.held_out)):
        which = (names == name) & rows.held_out
        found.append(ImageChange(str(name), float(base.losses[which].mean()), float(best.losses[which].mean())))
    return tuple(sorted(found, key=lambda change: -change.improvement))


def verdict(found: Learning) -> str:
    """One sentence, as it stands at the end of a run: the best state first, since that is the one to use."""
    best, last = found.at(found.best), found.last
    images = f"on {found.images} held-out images"
    if last is best:
        parts = [f"{_standing(best)} {images}"]
        if len(found.checkpoints) > 1:
            more = ": more steps may help" if found.still_improving else ""
            parts.append(f"best at the end (step {best.step}){more}")
    else:
        parts = [f"best at step {best.step}: {_standing(best)} {images}", f"at the end: {_standing(last)}"]
    if found.memorising_since is not None:
        parts.append(f"memorising since step {found.memorising_since}")
    elif found.worsening_since is not None:
        too = ", on the training images too" if found.training_images else ""
        parts.append(f"getting worse since step {found.worsening_since}{too}")
    elif found.plateau_since is not None:
        gained = ", only the training images got better" if found.training_gained else ""
        parts.append(f"no measurable gain since step {found.plateau_since}{gained}")
    return "; ".join(parts)


def _standing(at: Checkpoint) -> str:
    return f"loss {at.loss:.4f}" if at.improvement is None else against_base(at.improvement)


def against_base(found: LossReduction) -> str:
    """ "better than the base by 3.1 % (95 %: 2.6 to 3.6)", or worse, or not distinguishable."""
    unsure = found.low is None or found.high is None
    if found.better or (unsure and found.mean > 0):
        return f"better than the base by {percent(found)}"
    if found.worse or (unsure and found.mean < 0):
        return f"worse than the base by {percent(found.negative)}"
    return f"no measurable difference from the base: {percent(found, signed=True)}"


def percent(found: LossReduction, *, signed: bool = False) -> str:
    """3.1 % (95 %: 2.6 to 3.6), with more digits where the interval is narrow."""
    mark = "+" if signed else ""
    if found.low is None or found.high is None:
        return f"{_shown(found.mean, 1, mark)} % (too few images for an interval)"
    width = 100 * (found.high - found.low)
    digits = next((n for n in (1, 2) if width >= 2 * 0.1**n), 3)
    mean, low, high = (_shown(share, digits, mark) for share in (found.mean, found.low, found.high))
    return f"{mean} % (95 %: {low} to {high})"


def _shown(share: float, digits: int, mark: str) -> str:
    """In percent. What rounds to zero has no sign."""
    value = round(100 * share, digits)
    return f"{value:{mark if value else ''}.{digits}f}" if value else f"{0:.{digits}f}"
