"""A run that is ready to start: model, data and noise put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.optim import Optimizer

from trainer.build.learner import Learner, learner_of
from trainer.build.material import Material, material_of
from trainer.build.model import (
    objective_of,
)
from trainer.build.noise import noise_chain, timesteps_of
from trainer.build.periodic import periodic_of
from trainer.config import BaseConfig
from trainer.config_checks import notes
from trainer.console import Console
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader
from trainer.data.plan import Plan
from trainer.device.checkpointing import LEVELS, set_level
from trainer.device.determinism import set_deterministic
from trainer.errors import RunError, UserError
from trainer.events import Error, Notice, Sink, Start
from trainer.loop import Loop, Periodic
from trainer.losses import Loss
from trainer.protocols import Family
from trainer.run import environment
from trainer.run.advice import memory_advice, slowness_hint
from trainer.run.control import Control, StopRequestedError
from trainer.run.guards import StepTimes
from trainer.run.holder import holder_of, in_use
from trainer.run.preflight import attempt, describe, largest, quickest
from trainer.run.resume import Keeper, may_start, refuse_other_steps
from trainer.run.run_folder import RunFolder
from trainer.run_dir import RunDir
from trainer.step import TrainingStep


@dataclass
class Training:
    """A run that is ready to start; nothing is written before `run`."""

    loop: Loop
    family: Family
    loader: Loader
    folder: RunFolder
    console: Console
    keeper: Keeper
    advice: str  # what to change when the device's memory runs out
    notices: list[str] = field(default_factory=list)  # told first

    def run(self) -> str:
        """Returns "done" or "stopped"."""
        steps, done = self.loop.pace.steps, self.loop.start.step
        with (
            self.folder.opened(),
            self.loop.control.listening(),
            self.console.progress("training", steps, "steps", start=done) as self.folder.lines.update,
        ):
            try:
                self.keeper.begin(done)
                for line in [*self.folder.changes, *self.notices]:
                    self.loop.emit(Notice(done, message=line))
                return self.loop.run()
            except torch.OutOfMemoryError as error:
                failed = memory_ran_out(self.loop.start.device, self.advice)
                self.loop.emit(Error(done, message=str(failed)))
                raise failed from error
            except (RunError, UserError) as error:
                self.loop.emit(Error(done, message=str(error)))
                raise


def train(config: BaseConfig, console: Console, *, resume: bool = False, given: Path | None = None) -> str:
    """Builds a run and trains; returns "done" or "stopped". A stop is answered while caches are filled, too."""
    control = Control(run_dir_of(config).control)
    control.forget_earlier()
    with control.listening():
        console.interrupt = control.raise_if_stopped
        try:
            found = training(config, console, resume=resume, given=given, control=control)
        except StopRequestedError:
            console.say("stopped before the first step; what is in the disk cache stays, the rest begins anew")
            return "stopped"
        finally:
            console.interrupt = lambda: None
        return "done" if found is None else found.run()


def preflight(config: BaseConfig, console: Console) -> list[str]:
    """Takes one step with the largest batch and tells what it took; writes nothing."""
    found = training(config, console, trial=True)
    assert found is not None
    return found.notices


def run_dir_of(config: BaseConfig) -> RunDir:
    return RunDir(Path(config.run.output_dir) / config.run.name)


def training(
    config: BaseConfig,
    console: Console,
    *,
    resume: bool = False,
    given: Path | None = None,
    control: Control | None = None,
    trial: bool = False,
) -> Training | None:
    """Everything from config to a loop that can run. None when the run is done already. Raises UserError.

    given: the checkpoint to resume from, if not the newest; trial: for a preflight alone, without any caching.
    Nothing is written before the data and the model are known to be good.
    """
    run_dir = run_dir_of(config)
    if not trial and not _may_begin(run_dir, config, console, resume, given):
        return None
    for line in notes(config):
        console.say(line)
    set_deterministic(config.run.deterministic)
    material = material_of(config, console, trial=trial)
    accelerator = material.accelerator
    learner = learner_of(config, accelerator, material.placement, material.rates, material.pace)
    keeper = Keeper(
        run_dir, config, accelerator, learner.weights, learner.optimizer, learner.schedule, learner.also_saved
    )
    done = keeper.restore(console.say, learner.rates, given) if resume or given else 0
    made_from = _made_from(config, accelerator, material.split.training)
    if done:
        refuse_other_steps(run_dir, config, accelerator.num_processes, given)
    if done and given is None:
        _refuse_other_base(run_dir, made_from)
    folder = RunFolder(run_dir, config, accelerator, console, made_from)
    control = control or Control(run_dir.control)
    periodic = periodic_of(config, material, learner, keeper, run_dir, folder.emit, control, done=done)
    loop = _loop(config, material, learner, keeper, periodic, folder.emit, control, done)
    found = Training(loop, material.family, material.loader, folder, console, keeper, memory_advice(config))
    found.notices += _first_notices(found, config, learner, material.plan, trial=trial)
    return found


def _loop(
    config: BaseConfig,
    material: Material,
    learner: Learner,
    keeper: Keeper,
    periodic: Sequence[Periodic],
    emit: Sink,
    control: Control,
    done: int,
) -> Loop:
    accelerator, family, pace = material.accelerator, material.family, material.pace
    step = TrainingStep(
        predict=learner.network,
        encode_images=family.encode_images,
        objective=objective_of(config, family),
        noise=noise_chain(config, material.loader, pace, accelerator),
        timesteps=timesteps_of(config),
        loss=Loss(**config.loss.model_dump()),
    )
    start = Start(
        done,
        steps=pace.steps,
        images=len(material.split.training.items),
        trainable=sum(p.numel() for p in learner.weights.values()),
        device=str(accelerator.device),
        resumed=done > 0,
    )
    return Loop(
        accelerator=accelerator,
        processes=learner.processes,
        network=learner.network,
        step=step,
        batch=material.batch,
        optimizer=learner.optimizer,
        schedule=learner.schedule,
        pace=pace,
        emit=emit,
        periodic=periodic,
        saver=keeper,
        control=control,
        averages=learner.averages,
        update=learner.update,
        limit=learner.limit,
        compiled=learner.compiled,
        start=start,
        finite=learner.finite,
        times=StepTimes(slowness_hint(config, accelerator.device.type)),
    )


def _first_notices(found: Training, config: BaseConfig, learner: Learner, plan: Plan, *, trial: bool) -> list[str]:
    """What is told before step 1; the preflight is taken for it."""
    lines, start = [line] if (line := learner.processes.described) else [], found.loop.start
    if learner.update.waits:
        lines.append(
            f"optimizer.name = {config.optimizer.name!r}: each step waits for the GPU to find its gradients finite; "
            "'adamw' needs no wait."
        )
    automatic = config.training.gradient_checkpointing == "auto"
    if (config.training.preflight or trial or automatic) and start.step < start.steps:
        found.console.interrupt()
        spare = None if start.step else learner.spare_optimizer
        lines += pick(found, plan, spare) if automatic else [tried(found, plan, spare)]
    return lines


def _may_begin(run_dir: RunDir, config: BaseConfig, console: Console, resume: bool, given: Path | None) -> bool:
    """False when the run is done already. Raises UserError when its folder is held or holds another run."""
    if (pid := holder_of(run_dir)) is not None:
        raise in_use(run_dir.path, pid)
    if may_start(run_dir, config, resume=resume, given=given):
        return True
    console.say(f"{run_dir.path}: this run is done already; change run.name to train again.")
    return False


def _made_from(config: BaseConfig, accelerator: Accelerator, dataset: Dataset) -> dict[str, object]:
    """What tells later whether a run goes on with the same base and images."""
    return {
        "processes": accelerator.num_processes,
        "base": environment.fingerprint(Path(config.model.base)),
        "dataset": environment.fingerprint_of_images(dataset),
    }


def _refuse_other_base(run_dir: RunDir, made_from: Mapping[str, object]) -> None:
    began_with = environment.read(run_dir.environment).get("base")
    if began_with and began_with != made_from["base"]:
        raise UserError(
            f"model.base: its files are not those that the run in {run_dir.path} began with. Bring them back, or "
            "change run.name to start another run."
        )


def pick(found: Training, plan: Plan, spare: Callable[[], Optimizer] | None) -> list[str]:
    """Sets the quickest level of gradient checkpointing that fits, and tells which."""
    loop, parts = found.loop, found.family.parts.values()
    if loop.accelerator.device.type != "cuda":
        told = "training.gradient_checkpointing = 'auto' is for a GPU; here it is 'off'"
        return [told, tried(found, plan, spare)]
    try:
        level, trial = quickest(
            LEVELS, partial(set_level, parts), lambda: attempt(loop, plan, None if spare is None else spare())
        )
    except torch.OutOfMemoryError as error:
        raise memory_ran_out(loop.start.device, found.advice, describe(plan, largest(plan))) from error
    told = f"training.gradient_checkpointing = 'auto' took {level!r}"
    return [told, trial.line(loop.pace.steps - loop.start.step)]


def tried(found: Training, plan: Plan, spare: Callable[[], Optimizer] | None) -> str:
    """What a step with the largest batch took, as a line. spare: makes an optimizer of its own for it."""
    loop = found.loop
    try:
        trial = attempt(loop, plan, None if spare is None else spare())
    except torch.OutOfMemoryError as error:
        raise memory_ran_out(loop.start.device, found.advice, describe(plan, largest(plan))) from error
    return trial.line(loop.pace.steps - loop.start.step)


def memory_ran_out(device: str, advice: str, batch: str = "") -> RunError:
    where = f" in a first step with the largest batch ({batch})" if batch else ""
    return RunError(f"the memory of {device} ran out{where}. What saves most: {advice}.")
