"""Decides whether a run's folder may be used, and saves and restores the run's state there."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainer.config.reading import to_dict, validate
from trainer.config.schema.whole import BaseConfig
from trainer.errors import RunError, UserError
from trainer.files.atomic import remove, tidy
from trainer.files.background import Background
from trainer.journal.run_dir import RunDir
from trainer.optim.optimizers import match_layout, shared_out
from trainer.run import checkpoint, environment
from trainer.run.checkpoint import State

# What may differ between a run and its continuation: keys, or tables with all that is in them.
MAY_CHANGE = (
    "training.steps",
    "training.epochs",
    "training.preflight",
    "training.gradient_checkpointing",
    "training.gradient_accumulation",  # together with the number of processes: see `refuse_other_steps`
    "optimizer.lr",
    "optimizer.text_encoder_lr",
    "schedule",
    "samples",
    "validation.every",
    "validation.early_stop",
    "validation.keep_best",
    "save",
    "logging",
    "run.output_dir",
    "run.device",
    "run.deterministic",
    "performance.cudnn_benchmark",
    "data.skip_broken",
    "data.cache_latents",
    "data.cache_text",
    "data.cache_to_disk",
    "data.cache_dir",
)


def may_change(key: str) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in MAY_CHANGE)


def may_start(run_dir: RunDir, config: BaseConfig, *, resume: bool, given: Path | None = None) -> bool:
    """False when the run is done already. Raises UserError when the folder holds something else.

    given: the checkpoint to continue from, of this run or another one, instead of this run's newest.
    """
    if given is not None:
        _refuse(_fixed(_config_of(given), config, ignored="run.name"), f"the checkpoint {given}")
    if not run_dir.used:
        return True
    stored = _stored(run_dir)
    changed = sorted(differences(stored, to_dict(config)))
    if run_dir.finished and not changed and given is None:
        return False
    if resume or given is not None:
        if stored:
            _refuse(_fixed(stored, config), f"the run in {run_dir.path}")
        return True
    state = "a finished run" if run_dir.finished else "a run that is not finished"
    other = f" of another config (different: {', '.join(changed[:5])})" if changed else ""
    raise UserError(
        f"run.name: {run_dir.path} already holds {state}{other}. "
        f"{'Continue it with --resume, ' if not run_dir.finished else ''}"
        f"{'or change' if not run_dir.finished else 'Change'} run.name, or remove the folder."
    )


def _stored(run_dir: RunDir) -> dict[str, Any]:
    """The config that the run began with; empty where it cannot be read."""
    try:
        return _completed(tomllib.loads(run_dir.config.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _completed(stored: dict[str, Any]) -> dict[str, Any]:
    """With today's defaults for keys that did not exist when the run began: it trained as they say."""
    config, _ = validate(stored)
    return stored if config is None else to_dict(config)


def _config_of(given: Path) -> dict[str, Any]:
    try:
        return _completed(checkpoint.config_of(given))
    except RunError as error:
        raise UserError(
            f"--resume: {error}. Give the folder of a checkpoint, such as checkpoints/step-000400."
        ) from error


def _fixed(stored: Mapping[str, Any], config: BaseConfig, ignored: str = "") -> list[str]:
    """The keys that differ although they must not."""
    return [k for k in sorted(differences(stored, to_dict(config))) if not may_change(k) and k != ignored]


def refuse_other_steps(run_dir: RunDir, config: BaseConfig, processes: int, given: Path | None = None) -> None:
    """Raises UserError unless a step is made of as many micro-batches as before: the batches come in the same order
    then, whatever the number of processes."""
    began_in = run_dir if given is None else RunDir(given.resolve().parents[1])
    before = int(environment.read(began_in.environment).get("processes", 1))
    stored = _stored(run_dir) if given is None else _config_of(given)
    accumulation = int(stored.get("training", {}).get("gradient_accumulation", config.training.gradient_accumulation))
    total, now = before * accumulation, processes * config.training.gradient_accumulation
    if total == now:
        return
    fitting = (
        f"set training.gradient_accumulation = {total // processes}"
        if total % processes == 0
        else f"use a number of processes that divides {total}"
    )
    raise UserError(
        f"training.gradient_accumulation: the run's steps are made of {total} micro-batches ({before} processes x "
        f"{accumulation}), these would be of {now} ({processes} x {config.training.gradient_accumulation}), and the "
        f"images would come in another order; {fitting}."
    )


def _refuse(fixed: Sequence[str], what: str) -> None:
    if fixed:
        raise UserError(
            f"{key}: differs from {what}; a run continues with the settings it began with. "
            "Set it back, or change run.name to start another run."
            for key in fixed
        )


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys whose values differ."""
    for key in one.keys() | other.keys():
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) or isinstance(b, Mapping):
            first, second = (value if isinstance(value, Mapping) else {} for value in (a, b))
            yield from differences(first, second, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}"


class Stateful(Protocol):
    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


class Keeper:
    """Saves the state of a run as checkpoints, keeps the newest few, and restores one of them."""

    def __init__(
        self,
        run_dir: RunDir,
        config: BaseConfig,
        accelerator: Accelerator,
        weights: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        schedule: LambdaLR,
        extra: Mapping[str, Stateful] | None = None,
    ) -> None:
        """extra: whatever else changes from step to step, by a name of its own."""
        self._run_dir, self._config, self._accelerator = run_dir, config, accelerator
        self._weights, self._optimizer, self._schedule = weights, optimizer, schedule
        self._extra = dict(extra or {})
        self._background = Background()
        self._unwritten: checkpoint.Staged | None = None
        self.keep: set[int] = set()  # steps whose checkpoints are not to be forgotten, however old

    def begin(self, step: int) -> None:
        """Sets aside the checkpoints of later steps, which are damaged or belong to a continuation that was given up:
        they would be taken for the newest, and good ones forgotten in their favour."""
        if self._accelerator.is_main_process:
            for folder in checkpoint.folders(self._run_dir.checkpoints):
                if (checkpoint.step_of(folder) or 0) > step:
                    aside = folder.with_name(f"set-aside-{folder.name}")
                    shutil.rmtree(aside, ignore_errors=True)
                    folder.replace(aside)

    def save(self, step: int) -> None:
        """Called on every process, since each may hold a part of the weights; the main one copies the state to the
        host, and writes it while training goes on.

        Raises the OSError of the save before this one, when that failed and was not told yet.
        """
        if self._accelerator.is_main_process:
            try:
                self._background.wait()
            finally:
                staged = self._unwritten = checkpoint.stage(self._state(step))
                self._background.start(lambda: self._write(staged))
        else:
            checkpoint.help_staging(self._state(step))

    def check(self) -> None:
        """Raises the OSError of a save that failed meanwhile."""
        self._background.check()

    def wait(self) -> None:
        """Until what was saved is on the disk; one that failed is tried again. Raises OSError."""
        self._background.wait()
        if self._unwritten is not None:
            self._write(self._unwritten)

    def _state(self, step: int) -> State:
        scaler = self._accelerator.scaler
        return State(
            step=step,
            weights=self._weights,
            optimizer=self._optimizer.state_dict(),
            schedule=self._schedule.state_dict(),
            scaler=scaler.state_dict() if scaler is not None else {},
            config=to_dict(self._config),
            extra={name: part.state_dict() for name, part in self._extra.items()},
        )

    def _write(self, staged: checkpoint.Staged) -> None:
        checkpoint.write(self._run_dir.checkpoint(staged.step), staged)
        self._unwritten = None
        self._forget_old(staged.step)

    def _forget_old(self, step: int) -> None:
        """Only now, when the newest is complete and has been read back. One that cannot go now goes later."""
        settings = self._config.save
        earlier = [f for f in checkpoint.folders(self._run_dir.checkpoints) if (checkpoint.step_of(f) or 0) <= step]
        for folder in earlier[: -settings.keep]:
            number = checkpoint.step_of(folder) or 0
            if number not in self.keep and not (settings.keep_every and number % settings.keep_every == 0):
                with suppress(OSError):
                    remove(folder)

    def restore(self, say: Callable[[str], None], rates: Sequence[float], given: Path | None = None) -> int:
        """Loads the given checkpoint, or the newest valid one, and returns its step; 0 when there is none.

        rates: the learning rate of each group in the config of today, which may differ from the saved one.
        """
        if self._accelerator.is_main_process and self._run_dir.checkpoints.is_dir():
            tidy(self._run_dir.checkpoints)
        self._accelerator.wait_for_everyone()
        state = checkpoint.load_newest(self._run_dir.checkpoints, say) if given is None else checkpoint.load(given)
        if state is None:
            say(f"{self._run_dir.checkpoints}: no checkpoint to resume from; the run starts from the beginning.")
            return 0
        checkpoint.restore_weights(self._weights, state.weights)
        try:
            self._optimizer.load_state_dict(shared_out(state.optimizer, self._optimizer))
            match_layout(self._optimizer)
        except (ValueError, KeyError) as error:
            raise RunError(f"the checkpoint's optimizer is not the one of this config: {error}") from error
        self._schedule.load_state_dict(dict(state.schedule))
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(dict(state.scaler))
        for name, part in self._extra.items():
            if name in state.extra:
                part.load_state_dict(dict(state.extra[name]))
        self._schedule.base_lrs = list(rates)
        for group, rate, factor in zip(self._optimizer.param_groups, rates, self._schedule.lr_lambdas, strict=True):
            group["initial_lr"] = rate
            group["lr"] = rate * factor(self._schedule.last_epoch)
        return state.step
