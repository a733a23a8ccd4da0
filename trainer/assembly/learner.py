"""What learns in a run: the wrapped network, its optimizer, schedule and averages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainer.adapters import injection
from trainer.adapters.norm_limit import NormLimit
from trainer.adapters.starts import Starts
from trainer.assembly import embeddings
from trainer.assembly.model import learning_steps
from trainer.assembly.processes import share_out
from trainer.batch import EMBEDDINGS
from trainer.config.schema.whole import BaseConfig
from trainer.device.checkpointing import set_level
from trainer.device.compilation import Compiled
from trainer.device.placement import Placement
from trainer.optim import finite_update, optimizers, parameters, schedules
from trainer.optim.averages import Averages
from trainer.optim.finite_update import FiniteUpdate
from trainer.optim.fused_backward import FusedBackward
from trainer.optim.parameters import Group, Rates
from trainer.optim.piecewise import PIECE, Make, Piecewise, PiecewiseUpdate
from trainer.optim.schedules import Shape
from trainer.optim.update import Clipped, Update
from trainer.parallel.processes import Processes
from trainer.protocols import Family
from trainer.run.resume import Stateful
from trainer.training.guards import FiniteSteps
from trainer.training.network import Network
from trainer.training.pace import Pace


@dataclass(frozen=True)
class Learner:
    processes: Processes
    network: nn.Module  # wrapped by accelerate
    optimizer: Optimizer  # wrapped by accelerate
    schedule: LambdaLR
    weights: Mapping[str, nn.Parameter]  # everything that trains
    rates: Sequence[float]  # of the optimizer's groups
    averages: Averages
    teacher: Averages | None  # whose answers a consistency training learns to agree with; None = the network's own
    finite: FiniteSteps
    update: Update
    compiled: Compiled | None
    limit: NormLimit | None  # of the adapters' lengths
    began: Mapping[str, Stateful]  # what adapters began as, where that is not zero
    lengths: Callable[[], None] | None  # brings new words' vectors to their length
    spare_optimizer: Callable[[], Optimizer]  # a new one over the same weights, for a trial step

    @property
    def also_saved(self) -> dict[str, Stateful]:
        """What changes from step to step besides weights, optimizer and schedule."""
        teacher = {} if self.teacher is None else {"teacher": self.teacher}
        return {"finite": self.finite, "averages": self.averages, **teacher, **self.began}


def learner_of(
    config: BaseConfig, accelerator: Accelerator, placement: Placement, rates: Mapping[str, float], pace: Pace
) -> Learner:
    """Wraps what trains; `rates`: the learning rate of each part."""
    settings, family = config.optimizer, placement.family
    level = config.training.gradient_checkpointing
    set_level(family.parts.values(), "off" if level == "auto" else level)
    processes = share_out(config, accelerator, family, rates)
    windows = {**settings.windows, **embeddings.windows(config)}
    groups = parameters.groups(family.parts, Rates(rates, settings.rates, windows, settings.lora_plus))
    groups = optimizers.split(settings.name, groups)

    def real(groups: Sequence[Group]) -> Optimizer:
        return optimizers.build(settings.name, groups, settings.args)

    def make() -> Optimizer:
        return _piecewise(config, groups, real) if _in_pieces(config) else real(groups)

    modules = Network(family, placement.staying)
    if config.performance.channels_last:
        modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    compiled = (
        Compiled(family.parts.values(), exact=config.training.precision == "fp32")
        if config.performance.compile
        else None
    )
    network, optimizer = processes.wrap(modules, make())
    schedule = schedules.build(
        optimizer,
        Shape(**config.schedule.model_dump()),
        total=pace.steps,
        during=[learning_steps(config, family, group, pace) for group in groups],
    )
    weights = dict(parameters.trainable(family.parts))
    averages = Averages(weights, optimizer, config.ema.decay, config.ema.every, on_cpu=config.ema.device == "cpu")
    return Learner(
        processes,
        network,
        optimizer,
        schedule,
        weights,
        rates=[group.lr for group in groups],
        averages=averages,
        teacher=_teacher(config, weights, optimizer),
        finite=FiniteSteps(),
        update=processes.own_update() or _update_of(config, accelerator, optimizer),
        compiled=compiled,
        limit=_norm_limit(config, family),
        began={} if config.lora.start == "zero" else {"starts": Starts(injection.layers(family))},
        lengths=embeddings.Lengths(family.parts[EMBEDDINGS]) if config.embeddings.keep_norm else None,
        spare_optimizer=make,
    )


def _teacher(config: BaseConfig, weights: Mapping[str, nn.Parameter], optimizer: Optimizer) -> Averages | None:
    if config.consistency.target != "average":
        return None
    return Averages(weights, optimizer, config.consistency.decay)


def _norm_limit(config: BaseConfig, family: Family) -> NormLimit | None:
    if not config.lora.max_norm or config.training.method != "lora":
        return None
    return NormLimit((adapter.weights for adapter in injection.adapters(family)), config.lora.max_norm)


def _in_pieces(config: BaseConfig) -> bool:
    return config.training.weight_dtype != "fp32" or config.training.fused_backward


def _piecewise(config: BaseConfig, groups: Sequence[Group], make: Make) -> Piecewise:
    largest = 1 if config.training.fused_backward else PIECE
    return Piecewise(groups, make, seed=config.run.seed, largest=largest)


def _update_of(config: BaseConfig, accelerator: Accelerator, optimizer: Any) -> Update:
    if config.training.fused_backward:
        return FusedBackward(optimizer.optimizer, config.training.max_grad_value, optimizer)
    finite: FiniteUpdate
    if _in_pieces(config):
        finite = PiecewiseUpdate(optimizer)
    else:
        finite = finite_update.choose(
            optimizer,
            scaled=accelerator.scaler is not None,
            small=config.training.method == "lora",
            device=accelerator.device,
        )
    return Clipped(accelerator, optimizer, finite, config.training.max_grad_norm, config.training.max_grad_value)
