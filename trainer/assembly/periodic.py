"""What a run does between its steps: samples, measurements and saves, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from trainer.assembly.data import validator_of
from trainer.assembly.learner import Learner
from trainer.assembly.material import Material
from trainer.assembly.model import result_of
from trainer.config.schema.samples import SamplesSettings
from trainer.config.schema.whole import BaseConfig
from trainer.journal.events import Sink
from trainer.journal.run_dir import RunDir
from trainer.run import outputs
from trainer.run.facts import by_images, by_prompts
from trainer.run.results import SharedResult
from trainer.run.resume import Keeper
from trainer.samples import prompts
from trainer.samples.prompts import Request
from trainer.training.between_steps import Periodic
from trainer.training.control import Control


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
    taught = by_prompts(config.slider.pairs) if config.slider.asked else by_images(material.dataset)
    trained = result_of(config, material.family, taught, pace, accelerator.num_processes, material.waiting)
    result = SharedResult(trained, accelerator, learner.averages.applied, learner.processes.whole_on_host)

    def parsed(line: str) -> Request:
        return prompts.requests(SamplesSettings(**{**dict(config.samples), "prompts": [line]}))[0]

    samples = outputs.SampleDrawer(material.wanted, run_dir, material.placement, emit, accelerator, control, parsed)
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
