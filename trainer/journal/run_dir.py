"""Names and layout of what a run writes, and who may write there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunDir:
    """output/<name>/ and everything in it."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def pid(self) -> Path:
        """Who runs it: {"pid", "created"}, written by the trainer itself."""
        return self.path / "pid.json"

    @property
    def control(self) -> Path:
        """What is asked of it: one word, read at every step."""
        return self.path / "control"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def validation(self) -> Path:
        """What was asked and answered, see trainer.validation.measurements."""
        return self.path / "validation"

    @property
    def learning_page(self) -> Path:
        return self.path / "learning-report.html"

    @property
    def learning_numbers(self) -> Path:
        return self.path / "learning-report.json"

    @property
    def best(self) -> Path:
        """The result with the lowest held-out loss, without its suffix."""
        return self.path / f"{self.name}-best"

    def sheet(self, index: int) -> Path:
        """All samples of one prompt on one picture."""
        return self.samples / f"sheet-{index:02d}.png"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:06d}"

    def sample(self, step: int, index: int) -> Path:
        return self.samples / f"step-{step:06d}-{index:02d}.png"

    def result(self, step: int | None = None) -> Path:
        """The result without its suffix: <name>, or <name>-step000400 on the way. None = the final one."""
        return self.path / (self.name if step is None else f"{self.name}-step{step:06d}")

    def events(self) -> Iterator[dict[str, Any]]:
        """All complete lines of metrics.jsonl; a torn last line is passed over."""
        if not self.metrics.exists():
            return
        with self.metrics.open(encoding="utf-8") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue

    def last(self, kind: str) -> dict[str, Any] | None:
        """The newest event of a kind."""
        return next((e for e in reversed(list(self.events())) if e.get("event") == kind), None)

    @property
    def finished(self) -> bool:
        """Whether the last word of the run is that it came to its end."""
        stop = self.last("stop")
        return stop is not None and stop.get("reason") == "done"

    @property
    def used(self) -> bool:
        return self.metrics.exists() or self.config.exists()
