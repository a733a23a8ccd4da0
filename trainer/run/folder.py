"""Opens a run's folder for writing: holds it, writes config and environment, connects the listeners."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from accelerate import Accelerator

from trainer.config import reading
from trainer.config.schema.whole import BaseConfig
from trainer.files.atomic import tidy
from trainer.journal.console import Console, RunLines
from trainer.journal.events import Broadcast, MetricsFile, Sink, TensorBoardFile, WandbRun
from trainer.journal.run_dir import RunDir
from trainer.run import environment
from trainer.run.holder import Holder


class RunFolder:
    """Only the main process writes; on the others the block does nothing and events go nowhere."""

    def __init__(
        self,
        run_dir: RunDir,
        config: BaseConfig,
        accelerator: Accelerator,
        console: Console,
        made_from: Mapping[str, object] | None = None,
    ) -> None:
        """made_from: see trainer.run.environment."""
        self.emit = Broadcast([])
        self.changes: list[str] = []  # once opened: what is not as it was when the run began
        self._made_from = made_from
        self.lines = RunLines(console)
        self._run_dir, self._config, self._accelerator, self._console = run_dir, config, accelerator, console

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Inside, the folder is this process's own. Raises UserError when another holds it."""
        self._accelerator.wait_for_everyone()  # each has read what the folder held before
        if not self._accelerator.is_main_process:
            yield
            return
        with Holder(self._run_dir):
            for folder in (self._run_dir.path, self._run_dir.samples):
                tidy(folder)
            self._console.log_to(self._run_dir.log)
            reading.write(self._config, self._run_dir.config)
            now = environment.describe(self._accelerator.device, self._made_from)
            self.changes = environment.changes(environment.read(self._run_dir.environment), now)
            environment.write(self._run_dir.environment, now)
            self.emit.sinks = self._sinks()
            yield

    def _sinks(self) -> list[Sink]:
        found: list[Sink] = [MetricsFile(self._run_dir.metrics), self.lines]
        if self._config.logging.tensorboard:
            found.append(TensorBoardFile(self._run_dir.tensorboard))
        if self._config.logging.wandb:
            settings = reading.to_dict(self._config)
            project, name = self._config.logging.wandb_project, self._config.run.name
            found.append(WandbRun(project, name, self._run_dir.path / "wandb-id", settings))
        return found
