"""run.deterministic: strict, before CUDA is used; and on a GPU two runs and a resumed one give the same bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.reliability import small
from trainer.device.determinism import set_deterministic
from trainer.errors import UserError


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    set_deterministic(False)


def test_a_run_that_asks_for_it_is_strict(tmp_path: Path) -> None:
    project = small.make(tmp_path / "a project")
    small.training(project, "run.deterministic=true", "training.steps=1").run()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    small.training(project, "run.name='other'", "training.steps=1")
    assert not torch.are_deterministic_algorithms_enabled()


def test_it_comes_before_cuda_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8"):
        set_deterministic(True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    set_deterministic(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    set_deterministic(True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_resumed_runs_give_the_same_bits(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    project = small.make(tmp_path / "a project")
    settings = ("run.device='cuda'", "run.deterministic=true", f"training.precision='{precision}'", *small.EVERY_STEP)
    for name in ("one", "other"):
        small.training(project, *settings, f"run.name='{name}'").run()
    stopped = small.training(project, *settings, "run.name='stopped'")
    small.stop_after(stopped, 3)
    stopped.run()
    small.training(project, *settings, "run.name='stopped'", resume=True).run()
    states = {small.state_hash(small.run_dir(project, n).checkpoint(6)) for n in ("one", "other", "stopped")}
    assert len(states) == 1
