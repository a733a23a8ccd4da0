"""What a run does between its steps: samples, measurements and saves, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from trainer.build.data import validator_of
from trainer.build.learner import Learner
from trainer.build.material import Material
from trainer.build.model import result_of
from trainer.config import BaseConfig
from trainer.events import Sink
from trainer.loop import Periodic
from trainer.run import outputs
from trainer.run.control import Control
from trainer.run.results import SharedResult
from trainer.run.resume import Keeper
from trainer.run_dir import RunDir


def periodic_of(
    config: BaseConfig,
    material: Material,
    learner: Learner,
    keeper: Keeper,
    run_dir: RunDir,
    emit: Sink,
    control: Control,
    *,
    done: int,
) -> list[Periodic]:
    """done: steps that are finished already."""
    accelerator, pace = material.accelerator, material.pace
    trained = result_of(config, material.family, material.split.training, pace, accelerator.num_processes)
    result = SharedResult(trained, accelerator, learner.averages.applied, learner.processes.whole_on_host)
    samples = outputs.Samples(material.wanted, run_dir, material.placement, emit, accelerator, control)
    looks = [
        samples.periodic(outputs.schedule(config.samples.every, pace, accelerator), at_start=config.samples.at_start)
    ]
    if material.questions is not None:
        validator = validator_of(
            config, accelerator, material.family, material.questions, run_dir, result, emit, control, done
        )
        looks += outputs.validations(validator, config.validation.every, pace, keeper, control)
    saves = outputs.saves(
        outputs.schedule(config.save.every, pace, accelerator),
        lambda step: step >= pace.steps or control.ended,
        run_dir,
        result,
        keeper,
        emit,
    )
    return [*(_looked(look, learner) for look in looks), saves]


def _looked(periodic: Periodic, learner: Learner) -> Periodic:
    """The same action, done with whole weights, and with averaged ones where there are any."""

    def applied(act: Callable[[int], None]) -> Callable[[int], None]:
        def prepared(step: int) -> None:
            with learner.averages.applied(), learner.processes.whole():
                act(step)

        return prepared

    complete = None if periodic.complete is None else applied(periodic.complete)
    return replace(periodic, act=applied(periodic.act), complete=complete)
