"""A step never waits for the device: what it gives is read while the next one is on its way."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.reliability import small
from trainer.build import Training
from trainer.device.late import Late

HOST_ONLY = "_draws.py:host_random"  # draws on the host, from a generator's state, which is on the host too
WAITS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Whoever asks a tensor for its value, which on a GPU would wait for all work that was queued before."""
    seen: list[str] = []

    def asked(real: Callable[..., Any]) -> Callable[..., Any]:
        def ask(self: Tensor, *args: Any, **given: Any) -> Any:
            ours = [f for f in traceback.extract_stack()[:-1] if "trainer/" in f.filename or "plugins/" in f.filename]
            seen.append(f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "elsewhere")
            return real(self, *args, **given)

        return ask

    with monkeypatch.context() as patched:
        for name in WAITS:
            patched.setattr(Tensor, name, asked(getattr(Tensor, name)))
        yield seen


def ready(found: Training) -> None:
    """Batches made beforehand: a loader works on the host, whatever trains."""
    batches = [found.loader.batch(i) for i in range(found.loader.plan.batches_per_epoch)]
    found.loop.batch = lambda index: batches[index % len(batches)]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("noise={oversampling=8}", "loss={weighting='min_snr'}", "timesteps={distribution='logit_normal'}"),
        ("training.method='full'", "training.text_encoder=true", "training.gradient_accumulation=2"),
        ("training.precision='bf16'", "ema={decay=0.9}", "training.gradient_checkpointing=true"),
        ("noise={offset=0.1,pyramid=2}", "lora={dropout=0.1,rank_dropout=0.1}"),
    ],
)
def test_nothing_of_a_step_is_read_before_the_next_one_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    found = small.training(small.make(tmp_path / "a project"), "logging.every=1", "training.steps=9", *overrides)
    ready(found)
    with found.folder.opened():
        found.loop.take_step(0)
        with watched(monkeypatch) as seen:
            for finished in range(1, 5):
                found.loop.take_step(finished)
    assert [who for who in seen if who != HOST_ONLY] == ["late.py:read"] * 4


def test_the_watch_sees_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch) as seen:
        float(torch.ones(()))
        if torch.ones(()) > 0:
            torch.ones(2).tolist()
    assert len(seen) == 3


def test_numbers_are_read_after_the_next_steps_gradients_and_before_its_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = small.training(small.make(tmp_path / "a project"), "training.steps=4")
    loop, order = found.loop, []
    gradients, take, read = loop.gradients, loop.update.take, Late.read
    monkeypatch.setattr(loop, "gradients", lambda n: order.append(f"gradients {n + 1}") or gradients(n))
    monkeypatch.setattr(loop.update, "take", lambda: order.append("update") or take())
    monkeypatch.setattr(Late, "read", lambda self: order.append("read") or read(self))
    assert found.run() == "done"
    later = [line for n in (2, 3, 4) for line in (f"gradients {n}", "read", "update")]
    assert order == ["gradients 1", "update", *later, "read"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["adamw", "lion", "adamw8bit"])
@pytest.mark.parametrize("overrides", [(), ("training.precision='bf16'", "noise.oversampling=64", "ema={decay=0.9}")])
def test_on_a_gpu_no_step_waits(tmp_path: Path, name: str, overrides: tuple[str, ...]) -> None:
    project = small.make(tmp_path / "a project")
    found = small.training(
        project, "run.device='cuda'", f"optimizer.name='{name}'", "logging.every=1", "training.steps=9", *overrides
    )
    with found.folder.opened():
        for finished in range(2):
            found.loop.take_step(finished)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for finished in range(2, 8):
                found.loop.take_step(finished)
        finally:
            torch.cuda.set_sync_debug_mode("default")
