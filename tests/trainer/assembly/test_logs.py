"""What a run tells: whole lines whatever happens, curves for TensorBoard and W&B, nothing private to others."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.reliability import small
from trainer.config import reading
from trainer.errors import UserError
from trainer.files.line_file import LineFile
from trainer.journal.events import Step, scalars, without_paths


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return small.make(tmp_path / "a project")


class FakeWandb(ModuleType):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = SimpleNamespace()  # type: ignore[assignment]
        self.inits: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.settings: dict[str, Any] = {}
        self.finished = 0
        self.config = SimpleNamespace(update=lambda values, allow_val_change: self.settings.update(values))
        self.errors = SimpleNamespace(Error=RuntimeError)
        self.refuses = ""

    def init(self, **named: Any) -> Any:
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.inits.append(named)
        return SimpleNamespace(log=lambda values, step: self.logged.append((step, values)), finish=self._finish)

    def _finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_gets_the_curves_and_no_path(project: Path, wandb: FakeWandb) -> None:
    small.training(project, "logging.wandb=true", "logging.wandb_project='cats'", "training.steps=3").run()
    assert [step for step, _ in wandb.logged] == [1, 2, 3]
    assert {"loss", "grad_norm", "lr/unet", "images_per_second"} <= wandb.logged[0][1].keys()
    assert (wandb.inits[0]["project"], wandb.inits[0]["name"]) == ("cats", "run")
    assert str(project.parent) not in json.dumps(wandb.settings)
    assert wandb.settings["lora"]["rank"] == 2
    assert wandb.settings["model"]["base"] == "base"
    assert wandb.finished == 1


def test_a_resumed_run_goes_on_in_the_same_place(project: Path, wandb: FakeWandb) -> None:
    for steps in (2, 4):
        small.training(project, "logging.wandb=true", f"training.steps={steps}", resume=steps > 2).run()
    assert wandb.inits[0]["id"] == wandb.inits[1]["id"]
    assert [step for step, _ in wandb.logged] == [1, 2, 3, 4]


def test_wandb_that_refuses_or_is_not_there(project: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.refuses = "no login"
    with pytest.raises(UserError, match=r"logging\.wandb: no login"):
        small.training(project, "logging.wandb=true").run()
    monkeypatch.setattr("trainer.config.checks.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"logging\.wandb: the package wandb is not installed"):
        reading.read(project, ["logging.wandb=true"])


def test_prodigys_step_size_is_told(project: Path) -> None:
    small.training(project, "optimizer={name='prodigy',lr=1.0}", "training.steps=2").run()
    step = small.run_dir(project).last("step")
    assert step is not None
    assert step["d"]["unet"] > 0
    assert step["memory"] is None


def test_curves_have_names_and_no_holes() -> None:
    step = Step(3, 0.5, {"unet": 0.1}, None, 2.0, 1.0, {"0-249": 0.4}, {"unet": 1e-6}, 2**31)
    assert scalars(step) == {
        "loss": 0.5, "images_per_second": 2.0, "lr/unet": 0.1, "d/unet": 1e-6, "loss_by_timestep/0-249": 0.4,
        "memory_gb": 2.0,
    }  # fmt: skip


def test_only_absolute_paths_lose_their_folders(tmp_path: Path) -> None:
    told = {"base": str(tmp_path / "sdxl.safetensors"), "id": "owner/name", "list": [{"dir": str(tmp_path)}], "lr": 1.0}
    assert without_paths(told) == {
        "base": "sdxl.safetensors", "id": "owner/name", "list": [{"dir": tmp_path.name}], "lr": 1.0,
    }  # fmt: skip


def test_a_torn_line_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"whole\nto")
    LineFile(tmp_path / "log").write("next")
    LineFile(tmp_path / "log").write("last")
    assert (tmp_path / "log").read_text() == "whole\nto\nnext\nlast\n"
