"""What happens in a run, as typed events, and the sinks that receive them: metrics.jsonl, TensorBoard, W&B."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from trainer.errors import UserError
from trainer.files.atomic import write_text
from trainer.files.line_file import LineFile


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
    d: dict[str, float] = field(default_factory=dict)  # per part: the step size that Prodigy and its kin found
    memory: int | None = None  # bytes, the GPU's peak so far
    shrunk: int | None = None  # adapters that were longer than lora.max_norm after this step
    preservation: float | None = None  # the loss of what is held to the base, with its weights, beside `loss`


@dataclass(frozen=True)
class SampleDrawn(Event):
    kind = "sample"
    files: list[str]  # relative to the run's folder
    prompts: list[str]


@dataclass(frozen=True)
class ResultSaved(Event):
    kind = "save"
    file: str  # relative to the run's folder


@dataclass(frozen=True)
class Validated(Event):
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


def scalars(event: Event) -> dict[str, float]:
    """What of an event is drawn as curves, by the curve's name."""
    if isinstance(event, Step):
        named = {"loss": event.loss, "grad_norm": event.grad_norm, "images_per_second": event.images_per_second}
        named |= {f"lr/{part}": rate for part, rate in event.lr.items()}
        named |= {f"d/{part}": d for part, d in event.d.items()}
        named |= {f"loss_by_timestep/{bin}": loss for bin, loss in event.loss_by_timestep.items()}
        named["shrunk_adapters"] = event.shrunk
        named["memory_gb"] = None if event.memory is None else event.memory / 2**30
    elif isinstance(event, Validated):
        named = {"validation/loss": event.loss, "validation/loss_of_training_images": event.training_loss}
    else:
        return {}
    return {name: value for name, value in named.items() if value is not None}


class TensorBoardFile:
    """Scalars for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # 2 s to import

        self._writer = SummaryWriter(str(folder))

    def __call__(self, event: Event) -> None:
        for name, value in scalars(event).items():
            self._writer.add_scalar(name, value, event.step)
        if isinstance(event, Stop):
            self._writer.close()


class WandbRun:
    """The same for Weights & Biases, through accelerate; a resumed run goes on in the same place."""

    def __init__(self, project: str, name: str, id_file: Path, settings: Mapping[str, Any]) -> None:
        """settings: of the run, nested. Raises UserError when W&B refuses, as it does without a login."""
        import wandb  # optional
        from accelerate.tracking import WandBTracker

        if not id_file.exists():
            write_text(id_file, secrets.token_hex(8))
        self._tracker = WandBTracker(
            project, name=name, id=id_file.read_text(), resume="allow", dir=str(id_file.parent)
        )
        try:
            self._tracker.start()
            self._tracker.store_init_configuration(without_paths(settings))
        except wandb.errors.Error as error:
            raise UserError(f"logging.wandb: {error}") from error

    def __call__(self, event: Event) -> None:
        if values := scalars(event):
            self._tracker.log(values, step=event.step)
        if isinstance(event, (Stop, Error)):
            self._tracker.finish()


def without_paths(value: Any) -> Any:
    """Nested settings in which a path is only its last name: others see them."""
    if isinstance(value, Mapping):
        return {key: without_paths(child) for key, child in value.items()}
    if isinstance(value, list):
        return [without_paths(child) for child in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
