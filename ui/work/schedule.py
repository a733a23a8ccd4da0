"""When a run does next what it does between its steps, from its own config and speed."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.config.intervals import Interval
from trainer.journal.run_dir import RunDir
from ui.work.status import Status, clock

MEASUREMENTS = 10  # of a run whose config does not say how often
KINDS = (("sample", "samples"), ("validation", "validation"), ("save", "save"))


def coming(run: RunDir, found: Status, steps_per_epoch: float) -> list[tuple[str, str]]:
    """(what, when) of the next sample, validation and save of a run that goes on."""
    try:
        config = tomllib.loads(run.config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return []
    return [
        (f"Next {what}", _when(every, found, steps_per_epoch))
        for what, every in _intervals(config, found.steps)
        if every
    ]


def _intervals(config: Mapping[str, Any], steps: int) -> Iterator[tuple[str, Any]]:
    for what, section in KINDS:
        settings = config.get(section)
        settings = settings if isinstance(settings, Mapping) else {}
        every = settings.get("every", 0)
        if what == "sample" and not settings.get("prompts"):
            continue
        if what == "validation":
            if not (settings.get("split") or settings.get("datasets")):
                continue
            every = every or math.ceil(steps / MEASUREMENTS)
        yield what, every


def _when(every: int | str, found: Status, steps_per_epoch: float) -> str:
    try:
        interval = Interval.parse(every)
    except ValueError:
        return str(every)
    if interval.seconds:
        return f"every {clock(interval.seconds)}"
    reach = interval.steps or math.ceil(interval.epochs * steps_per_epoch) + 1
    for step in range(found.step + 1, min(found.steps, found.step + 1 + reach)):
        if interval.after_step(step, steps_per_epoch):
            left = f", in {clock((step - found.step) / found.rate)}" if found.rate else ""
            return f"step {step:,}{left}"
    return "at the end"
