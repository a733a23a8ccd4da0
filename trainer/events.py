"""What happens in a run, as typed events, and the sinks that receive them: metrics.jsonl, log.txt, TensorBoard."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from trainer.line_file import LineFile


@dataclass(frozen=True)
class Event:
    """Base of all events. `step` counts finished optimizer steps, `time` is seconds since 1970."""

    kind: ClassVar[str]
    step: int
    time: float = field(default_factory=time.time, kw_only=True)

    def as_dict(self) -> dict[str, Any]:
        return {"event": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Start(Event):
    kind = "start"
    steps: int  # in total
    images: int
    trainable: int  # number of trained weights
    device: str
    resumed: bool = False


@dataclass(frozen=True)
class Step(Event):
    kind = "step"
    loss: float
    lr: dict[str, float]  # per part
    grad_norm: float | None
    images_per_second: float
    epoch: float
    loss_by_timestep: dict[str, float] = field(default_factory=dict)  # bins that were drawn, e.g. {"250-499": 0.1}


@dataclass(frozen=True)
class Sample(Event):
    kind = "sample"
    files: list[str]  # relative to the run's folder
    prompts: list[str]


@dataclass(frozen=True)
class Save(Event):
    kind = "save"
    file: str  # relative to the run's folder


@dataclass(frozen=True)
class Validation(Event):
    """The loss on images that do not train. `better` is a share of the base's loss: [mean, low, high] at 95 %."""

    kind = "validation"
    loss: float
    training_loss: float | None  # a few training images, asked in the same way
    base_loss: float | None
    base_training_loss: float | None
    better: list[float | None] | None
    best: int  # step of the lowest loss so far
    bins: list[dict[str, float]]  # by timestep: low, high (exclusive), loss
    seconds: float
    message: str


@dataclass(frozen=True)
class Notice(Event):
    """Something a person should know that did not end the run: a skipped step, a pause, a failed save."""

    kind = "notice"
    message: str


@dataclass(frozen=True)
class Stop(Event):
    kind = "stop"
    reason: str  # "done" or "stopped"
    seconds: float


@dataclass(frozen=True)
class Error(Event):
    kind = "error"
    message: str


Sink = Callable[[Event], None]


class Broadcast:
    """Hands every event to all sinks."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = list(sinks)

    def __call__(self, event: Event) -> None:
        for sink in self.sinks:
            sink(event)


class MetricsFile:
    """Appends each event as one whole line of JSON and flushes it: others follow the run by this file alone."""

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)

    def __call__(self, event: Event) -> None:
        self._file.write(json.dumps(_finite(event.as_dict())))


def _finite(value: Any) -> Any:
    """NaN and infinity are not JSON: they become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return value


class TensorBoardFile:
    """Scalars for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # 2 s to import

        self._writer = SummaryWriter(str(folder))

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step):
            self._writer.add_scalar("loss", event.loss, event.step)
            self._writer.add_scalar("images_per_second", event.images_per_second, event.step)
            for part, rate in event.lr.items():
                self._writer.add_scalar(f"lr/{part}", rate, event.step)
            if event.grad_norm is not None:
                self._writer.add_scalar("grad_norm", event.grad_norm, event.step)
        elif isinstance(event, Validation):
            self._writer.add_scalar("validation/loss", event.loss, event.step)
            if event.training_loss is not None:
                self._writer.add_scalar("validation/loss_of_training_images", event.training_loss, event.step)
        elif isinstance(event, Stop):
            self._writer.close()
