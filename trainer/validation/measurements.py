"""What validation asked, and what the base and each checkpoint answered, as files in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import RunError
from trainer.files.atomic import write_text

FORMAT = 1
QUESTIONS, BASE = "questions.json", "base.json"

Losses = NDArray[np.float64]  # (N, D): N pictures, D draws of noise and timestep of each


@dataclass(frozen=True)
class AskedImage:
    """One image at one size, and the timesteps at which it is asked about; the noise follows from seed, name, draw."""

    name: str  # folder/file, the same on every machine
    size: tuple[int, int]  # width, height in pixels
    held_out: bool  # False: it trains too, and is measured so that memorising shows
    content: str  # fingerprint of file and caption
    timesteps: tuple[float, ...]  # (D,); whole numbers where the schedule has discrete ones


@dataclass(frozen=True)
class Questions:
    """What every checkpoint and the base are asked, in this order. Only losses of one objective can be compared."""

    seed: int
    objective: str
    schedule: int  # steps of the base's noise schedule: timesteps are from 0 to this
    pictures: tuple[AskedImage, ...]

    @property
    def draws(self) -> int:
        return len(self.pictures[0].timesteps)

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """(N,)"""
        return np.array([p.held_out for p in self.pictures])

    @property
    def timesteps(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """(N, D)"""
        return np.array([p.timesteps for p in self.pictures])


@dataclass(frozen=True)
class Answers:
    """The losses of one state of the model."""

    step: int | None  # None: the untouched base
    losses: Losses


@dataclass(frozen=True)
class Measurements:
    """All that a run's validation has found so far."""

    questions: Questions
    base: Answers | None
    checkpoints: tuple[Answers, ...]  # by rising step

    def at(self, step: int) -> Answers:
        return next(c for c in self.checkpoints if c.step == step)


def read(folder: Path) -> Measurements | None:
    """None when the folder holds no validation. Raises RunError when it is damaged."""
    if not (folder / QUESTIONS).exists():
        return None
    questions = _questions(_load(folder / QUESTIONS))
    base = folder / BASE
    return Measurements(
        questions,
        _answers(base, questions) if base.exists() else None,
        tuple(_answers(file, questions) for file in sorted(folder.glob("step-*.json"))),
    )


def known(folder: Path, questions: Questions, step: int) -> Measurements:
    """What holds for a run that goes on after `step`: not the answers to other questions or of steps to come again."""
    found = read(folder)
    if found is None or found.questions != questions:
        return Measurements(questions, None, ())
    return Measurements(questions, found.base, tuple(c for c in found.checkpoints if (c.step or 0) <= step))


def begin(folder: Path, held: Measurements) -> None:
    """Makes the folder hold these measurements and no others."""
    keep = {folder / QUESTIONS, *(_file(folder, c.step) for c in held.checkpoints)}
    if held.base is not None:
        keep.add(_file(folder, None))
    for file in set(folder.glob("*.json")) - keep:
        file.unlink()
    write_text(folder / QUESTIONS, json.dumps({"format": FORMAT, **asdict(held.questions)}))


def write(folder: Path, answers: Answers) -> None:
    content = {"format": FORMAT, "step": answers.step, "losses": answers.losses.tolist()}
    write_text(_file(folder, answers.step), json.dumps(content))


def _file(folder: Path, step: int | None) -> Path:
    return folder / (BASE if step is None else f"step-{step:06d}.json")


def _answers(file: Path, questions: Questions) -> Answers:
    content = _load(file)
    losses = np.array(content["losses"], dtype=np.float64)
    if losses.shape != questions.timesteps.shape:
        raise RunError(f"{file}: does not answer the questions beside it; remove the folder to measure anew.")
    return Answers(content["step"], losses)


def _questions(content: dict[str, Any]) -> Questions:
    pictures = tuple(
        AskedImage(p["name"], _pair(p["size"]), p["held_out"], p["content"], tuple(p["timesteps"]))
        for p in content["pictures"]
    )
    return Questions(content["seed"], content["objective"], content["schedule"], pictures)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return values[0], values[1]


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise RunError(f"{file}: has format {content['format']}, this version reads {FORMAT}.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: damaged ({error}); remove the folder to measure anew.") from error
    return content
