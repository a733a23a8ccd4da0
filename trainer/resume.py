"""Decides whether a run's folder may be used, and saves and restores the run's state there."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainer import checkpoint
from trainer.config import BaseConfig
from trainer.config_io import to_dict
from trainer.errors import UserError
from trainer.run_dir import RunDir

# What may differ between a run and its continuation, as dotted prefixes.
MAY_CHANGE = (
    "training.steps",
    "training.epochs",
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
    "data",
)


def may_start(run_dir: RunDir, config: BaseConfig, *, resume: bool) -> bool:
    """False when the run is done already. Raises UserError when the folder holds something else."""
    if not run_dir.used:
        return True
    try:
        stored = tomllib.loads(run_dir.config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = {}
    changed = sorted(differences(stored, to_dict(config)))
    if run_dir.finished and not changed:
        return False
    if resume:
        fixed = [key for key in changed if not key.startswith(MAY_CHANGE)]
        if fixed and stored:
            raise UserError(
                f"{key}: differs from the run in {run_dir.path}; a run continues with the settings it began with. "
                "Set it back, or change run.name to start another run."
                for key in fixed
            )
        return True
    state = "a finished run" if run_dir.finished else "a run that is not finished"
    other = f" of another config (different: {', '.join(changed[:5])})" if changed else ""
    raise UserError(
        f"run.name: {run_dir.path} already holds {state}{other}. "
        f"{'Continue it with --resume, ' if not run_dir.finished else ''}"
        f"{'or change' if not run_dir.finished else 'Change'} run.name, or remove the folder."
    )


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys whose values differ."""
    for key in one.keys() | other.keys():
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}"


class Keeper:
    """Saves the state of a run as checkpoints, keeps the newest few, and restores the newest valid one."""

    def __init__(
        self,
        run_dir: RunDir,
        config: BaseConfig,
        accelerator: Accelerator,
        weights: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        schedule: LambdaLR,
    ) -> None:
        self._run_dir, self._config, self._accelerator = run_dir, config, accelerator
        self._weights, self._optimizer, self._schedule = weights, optimizer, schedule
        self.keep: set[int] = set()  # steps whose checkpoints are not to be forgotten, however old

    def save(self, step: int) -> None:
        """Called on every process; the main one writes."""
        if self._accelerator.is_main_process:
            scaler = self._accelerator.scaler
            state = checkpoint.State(
                step=step,
                weights=self._weights,
                optimizer=self._optimizer.state_dict(),
                schedule=self._schedule.state_dict(),
                scaler=scaler.state_dict() if scaler is not None else {},
                config=to_dict(self._config),
            )
            checkpoint.save(self._run_dir.checkpoint(step), state)
            self._forget_old()
        self._accelerator.wait_for_everyone()

    def _forget_old(self) -> None:
        kept = {self._run_dir.checkpoint(step) for step in self.keep}
        for folder in sorted(self._run_dir.checkpoints.glob("step-*"))[: -self._config.save.keep]:
            if folder not in kept:
                shutil.rmtree(folder)

    def restore(self, say: Callable[[str], None], rates: Sequence[float]) -> int:
        """Loads the newest valid checkpoint and returns its step; 0 when there is none.

        rates: the learning rate of each group in the config of today, which may differ from the saved one.
        """
        folder = checkpoint.newest(self._run_dir.checkpoints, say)
        if folder is None:
            say(f"{self._run_dir.checkpoints}: no checkpoint to resume from; the run starts from the beginning.")
            return 0
        state = checkpoint.load(folder)
        checkpoint.restore_weights(self._weights, state.weights)
        self._optimizer.load_state_dict(dict(state.optimizer))
        self._schedule.load_state_dict(dict(state.schedule))
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(dict(state.scaler))
        self._schedule.base_lrs = list(rates)
        for group, rate, factor in zip(self._optimizer.param_groups, rates, self._schedule.lr_lambdas, strict=True):
            group["initial_lr"] = rate
            group["lr"] = rate * factor(self._schedule.last_epoch)
        return state.step
