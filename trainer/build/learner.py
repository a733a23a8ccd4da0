"""What learns in a run: the wrapped network, its optimizer, schedule and averages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainer import finite_update, lora, optimizers, parameters, schedules
from trainer.build.model import learning_steps
from trainer.config import BaseConfig
from trainer.ema import Averages
from trainer.finite_update import FiniteUpdate
from trainer.guards import FiniteSteps
from trainer.loop import Pace
from trainer.network import Network
from trainer.norm_limit import NormLimit
from trainer.parameters import Rates
from trainer.protocols import Family
from trainer.resume import Stateful
from trainer.schedules import Shape


@dataclass(frozen=True)
class Learner:
    network: nn.Module  # wrapped by accelerate
    optimizer: Optimizer  # wrapped by accelerate
    schedule: LambdaLR
    weights: Mapping[str, nn.Parameter]  # everything that trains
    rates: Sequence[float]  # of the optimizer's groups
    averages: Averages
    finite: FiniteSteps
    update: FiniteUpdate
    limit: NormLimit | None  # of the adapters' lengths
    spare_optimizer: Callable[[], Optimizer]  # a new one over the same weights, for a trial step

    @property
    def also_saved(self) -> dict[str, Stateful]:
        """What changes from step to step besides weights, optimizer and schedule."""
        return {"finite": self.finite, "averages": self.averages}


def learner_of(
    config: BaseConfig, accelerator: Accelerator, family: Family, rates: Mapping[str, float], pace: Pace
) -> Learner:
    """Wraps what trains; `rates`: the learning rate of each part."""
    settings = config.optimizer
    groups = parameters.groups(family.parts, Rates(rates, settings.rates, settings.windows, settings.lora_plus))

    def make() -> Optimizer:
        return optimizers.build(settings.name, groups, settings.args)

    modules = Network(family)
    if config.training.gradient_checkpointing:
        modules.enable_gradient_checkpointing()
    network, optimizer = accelerator.prepare(modules, make())
    schedule = schedules.build(
        optimizer,
        Shape(**config.schedule.model_dump()),
        total=pace.steps,
        during=[learning_steps(config, family, group, pace) for group in groups],
    )
    weights = dict(parameters.trainable(family.parts))
    averages = Averages(weights, optimizer, config.ema.decay, config.ema.every, on_cpu=config.ema.device == "cpu")
    update = finite_update.choose(
        optimizer,
        scaled=accelerator.scaler is not None,
        small=config.training.method == "lora",
        device=accelerator.device,
    )
    return Learner(
        network,
        optimizer,
        schedule,
        weights,
        rates=[group.lr for group in groups],
        averages=averages,
        finite=FiniteSteps(),
        update=update,
        limit=_norm_limit(config, family),
        spare_optimizer=make,
    )


def _norm_limit(config: BaseConfig, family: Family) -> NormLimit | None:
    if not config.lora.max_norm or config.training.method != "lora":
        return None
    return NormLimit((adapter.weights for adapter in lora.adapters(family)), config.lora.max_norm)
