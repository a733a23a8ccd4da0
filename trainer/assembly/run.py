"""A run that is ready to start: model, data and noise put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch.optim import Optimizer

from trainer.assembly import consistency, preservation, steps, warm_start
from trainer.assembly.learner import Learner, learner_of
from trainer.assembly.material import Material, material_of
from trainer.assembly.model import open_to_train
from trainer.assembly.noise import noise_chain
from trainer.assembly.periodic import periodic_of
from trainer.config.checks import notes
from trainer.config.schema.whole import BaseConfig
from trainer.data.order.source import Order, Source
from trainer.device import kernels
from trainer.device.checkpointing import LEVELS, set_level
from trainer.device.determinism import set_deterministic
from trainer.errors import RunError, UserError
from trainer.journal.console import Console
from trainer.journal.events import Error, Notice, Sink, Start
from trainer.journal.run_dir import RunDir
from trainer.protocols import Family
from trainer.run import environment
from trainer.run.advice import memory_advice, shortage_told, slowness_hint
from trainer.run.folder import RunFolder
from trainer.run.holder import holder_of, in_use
from trainer.run.preflight import Trial, attempt, quickest
from trainer.run.resume import Keeper, may_start, refuse_other_steps
from trainer.training.between_steps import BetweenSteps, Periodic
from trainer.training.control import Control, StopRequestedError
from trainer.training.gradients import Gradients
from trainer.training.guards import StepTimes
from trainer.training.loop import Loop
from trainer.training.step import Step
from trainer.training.step_end import StepEnd
from trainer.training.step_log import StepLog


@dataclass
class PreparedRun:
    """A run that is ready to start; nothing is written before `run`."""

    loop: Loop
    family: Family
    loader: Source
    folder: RunFolder
    console: Console
    keeper: Keeper
    advice: str  # what to change when the device's memory runs out
    notices: list[str] = field(default_factory=list)  # told first
    step_seconds: float = 0.0  # as the preflight found; 0 = there was none

    def run(self) -> str:
        """Returns "done" or "stopped"."""
        steps, done = self.loop.pace.steps, self.loop.start.step
        with (
            self.folder.opened(),
            self.loop.control.listening(),
            self.console.progress(
                "training", steps, "steps", start=done, expected=self.step_seconds
            ) as self.folder.lines.update,
        ):
            try:
                self.keeper.begin(done)
                for line in [*self.folder.changes, *self.notices]:
                    self.loop.emit(Notice(done, message=line))
                with shortage_told("in training", self.advice, self.loop.start.device):
                    return self.loop.run()
            except (RunError, UserError) as error:
                self.loop.emit(Error(max(done, self.loop.log.finished), message=str(error)))
                raise


def train(config: BaseConfig, console: Console, *, resume: bool = False, given: Path | None = None) -> str:
    """Builds a run and trains; returns "done" or "stopped". A stop is answered while caches are filled, too."""
    control = Control(run_dir_of(config).control)
    control.forget_earlier()
    with control.listening(), kernels.kept():
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
    with kernels.kept():
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
    opened: Callable[[BaseConfig], Family] = open_to_train,
) -> PreparedRun | None:
    """Everything from config to a loop that can run. None when the run is done already. Raises UserError.

    given: the checkpoint to resume from, if not the newest; trial: for a preflight alone, without any caching; opened:
    gives the base, whose weights need not be on any disk.
    Nothing is written before the data and the model are known to be good.
    """
    config = warm_start.resolved(config)
    run_dir = run_dir_of(config)
    if not trial and not _may_begin(run_dir, config, console, resume, given):
        return None
    for line in notes(config):
        console.say(line)
    set_deterministic(config.run.deterministic)
    with shortage_told("while the model was brought there", memory_advice(config)):
        material = material_of(config, console, trial=trial, opened=opened)
        accelerator = material.accelerator
        _choose_kernels(config, console, material)
        begun = steps.begun(config, material)
        learner = learner_of(config, accelerator, material.placement, material.rates, material.pace)
    noise = noise_chain(config, material.family.schedule, material.source, material.pace, accelerator)
    also_saved = {**learner.also_saved, **noise.remembering}
    keeper = Keeper(run_dir, config, accelerator, learner.weights, learner.optimizer, learner.schedule, also_saved)
    with shortage_told("while the run's state was brought there", memory_advice(config)):
        done = keeper.restore(console.say, learner.rates, given) if resume or given else 0
    made_from = _made_from(config, material)
    if done:
        refuse_other_steps(run_dir, config, accelerator.num_processes, given)
    if done and given is None:
        _refuse_other_base(run_dir, config, made_from)
    folder = RunFolder(run_dir, config, accelerator, console, made_from)
    control = control or Control(run_dir.control)
    periodic = periodic_of(config, material, learner, keeper, run_dir, folder.emit, control, done=done)
    step = begun(learner, noise)
    loop = _loop(config, material, learner, step, keeper, periodic, folder.emit, control, done)
    found = PreparedRun(loop, material.family, material.source, folder, console, keeper, memory_advice(config))
    found.notices += preservation.lines(config, material.dataset) + consistency.lines(config, material.pace)
    found.notices += _first_notices(found, config, learner, material.source.plan, trial=trial)
    return found


def _choose_kernels(config: BaseConfig, console: Console, material: Material) -> None:
    """Once the sizes of batches are known. TF32 is chosen already, for whatever is encoded."""
    asked, device = config.performance.cudnn_benchmark, material.accelerator.device
    repeats = kernels.sizes_repeat(material.pace.steps * material.pace.accumulation, len(material.source.plan.shapes()))
    worth = asked == "on" or (asked == "auto" and repeats and not config.run.deterministic)
    kernels.try_convolutions(worth and device.type == "cuda")
    if config.performance.tf32 == "on" and not kernels.has_tf32(device):
        console.say("note: performance.tf32 = 'on' has no effect here; it is for NVIDIA GPUs from Ampere (RTX 30) on.")


def _loop(
    config: BaseConfig,
    material: Material,
    learner: Learner,
    step: Step,
    keeper: Keeper,
    periodic: Sequence[Periodic],
    emit: Sink,
    control: Control,
    done: int,
) -> Loop:
    accelerator, family, pace = material.accelerator, material.family, material.pace
    start = Start(
        done,
        steps=pace.steps,
        images=len(material.dataset.items),
        trainable=sum(p.numel() for p in learner.weights.values()),
        device=str(accelerator.device),
        resumed=done > 0,
    )
    return Loop(
        accelerator,
        learner.network,
        pace,
        gradients=Gradients(
            accelerator,
            learner.processes,
            step,
            material.batch,
            pace,
            learner.optimizer,
            learner.update,
            learner.compiled,
        ),
        end=StepEnd(
            learner.update,
            learner.optimizer,
            learner.schedule,
            learner.limit,
            learner.averages,
            learner.lengths,
            learner.teacher,
        ),
        log=StepLog(
            accelerator,
            pace,
            learner.optimizer,
            learner.update,
            emit,
            family.schedule.steps,
            learner.finite,
            StepTimes(slowness_hint(config, accelerator.device.type)),
        ),
        between=BetweenSteps(accelerator, keeper, control, emit),
        periodic=periodic,
        control=control,
        emit=emit,
        start=start,
    )


def _first_notices(found: PreparedRun, config: BaseConfig, learner: Learner, plan: Order, *, trial: bool) -> list[str]:
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
    if (holder := holder_of(run_dir)) is not None:
        raise in_use(run_dir.path, holder)
    if may_start(run_dir, config, resume=resume, given=given):
        return True
    console.say(f"{run_dir.path}: this run is done already; change run.name to train again.")
    return False


def _made_from(config: BaseConfig, material: Material) -> dict[str, object]:
    """What tells later whether a run goes on with the same base and images."""
    return {
        "processes": material.accelerator.num_processes,
        "base": environment.fingerprint_of_settings(config.model.network)
        if config.model.network
        else environment.fingerprint(Path(config.model.base)),
        "dataset": environment.fingerprint_of_images(material.dataset),
        "tf32": config.performance.tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def _refuse_other_base(run_dir: RunDir, config: BaseConfig, made_from: Mapping[str, object]) -> None:
    told = "network: its keys are not those" if config.model.network else "base: its files are not those"
    began_with = environment.read(run_dir.environment).get("base")
    if began_with and began_with != made_from["base"]:
        raise UserError(
            f"model.{told} that the run in {run_dir.path} began with. Bring them back, or change run.name to start "
            "another run."
        )


def pick(found: PreparedRun, plan: Order, spare: Callable[[], Optimizer] | None) -> list[str]:
    """Sets the quickest level of gradient checkpointing that fits, and tells which."""
    loop, parts = found.loop, found.family.parts.values()
    if loop.accelerator.device.type != "cuda":
        told = "training.gradient_checkpointing = 'auto' is for a GPU; here it is 'off'"
        return [told, tried(found, plan, spare)]
    with _trial_told(found, plan):
        level, trial = quickest(
            LEVELS, partial(set_level, parts), lambda: attempt(loop, plan, None if spare is None else spare())
        )
    return [f"training.gradient_checkpointing = 'auto' took {level!r}", _told(found, trial)]


def tried(found: PreparedRun, plan: Order, spare: Callable[[], Optimizer] | None) -> str:
    """What a step with the largest batch took, as a line. spare: makes an optimizer of its own for it."""
    loop = found.loop
    with _trial_told(found, plan):
        trial = attempt(loop, plan, None if spare is None else spare())
    return _told(found, trial)


def _told(found: PreparedRun, trial: Trial) -> str:
    found.step_seconds = trial.seconds
    return trial.line(found.loop.pace.steps - found.loop.start.step)


def _trial_told(found: PreparedRun, plan: Order) -> AbstractContextManager[None]:
    batch = plan.describe(plan.largest())
    return shortage_told(f"in a first step with the largest batch ({batch})", found.advice, found.loop.start.device)
