"""A step never waits for the device: what it gives is read while the next one is on its way."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cards import AnyCard
from tests.reliability import small
from trainer.assembly.run import PreparedRun
from trainer.device.late import Late
from trainer.errors import UserError

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


def ready(found: PreparedRun) -> None:
    """Batches made beforehand: a loader works on the host, whatever trains."""
    batches = [found.loader.batch(i) for i in range(found.loader.plan.batches_per_epoch)]
    found.loop.gradients.batch = lambda index: batches[index % len(batches)]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("noise={oversampling=8}", "loss={weighting='min_snr'}", "timesteps={distribution='logit_normal'}"),
        ("training.method='full'", "training.text_encoder=true", "training.gradient_accumulation=2"),
        ("training.precision='bf16'", "ema={decay=0.9}", "training.gradient_checkpointing=true"),
        ("noise={offset=0.1,pyramid=2}", "lora={dropout=0.1,rank_dropout=0.1}"),
        ("data={cache_latents=false,cache_text=false}",),
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
    gradients, take, read = loop.gradients.eager, loop.end.update.take, Late.read
    monkeypatch.setattr(loop.gradients, "eager", lambda n: order.append(f"gradients {n + 1}") or gradients(n))
    monkeypatch.setattr(loop.end.update, "take", lambda: order.append("update") or take())
    monkeypatch.setattr(Late, "read", lambda self: order.append("read") or read(self))
    assert found.run() == "done"
    later = [line for n in (2, 3, 4) for line in (f"gradients {n}", "read", "update")]
    assert order == ["gradients 1", "update", *later, "read"]


@pytest.mark.parametrize("overrides", [(), ("training.method='full'", "training.gradient_accumulation=2")])
def test_an_image_that_the_vae_breaks_ends_the_run_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    found = small.training(small.make(tmp_path / "a project"), "data.cache_latents=false", *overrides)
    encode = found.family.encode_images
    loop, calls = found.loop, iter(range(99))

    def breaking(pixels: Tensor) -> Tensor:
        broken = next(calls) == 2 * loop.pace.accumulation  # the third step
        return encode(pixels).index_fill(0, torch.tensor([1]), torch.nan) if broken else encode(pixels)

    loop.gradients.step = replace(loop.gradients.step, encode_images=breaking)
    with found.folder.opened():
        loop.take_step(0)
        loop.take_step(1)
        loop.log.settle()
        before = [p.detach().clone() for p in loop.network.parameters()]
        names = loop.gradients.batch(2 * loop.pace.accumulation).names
        loop.take_step(2)
        with pytest.raises(UserError, match=r"the VAE turned this image into NaN") as told:
            loop.log.settle()
    assert told.value.problems[0].startswith(names[1])
    assert len(told.value.problems) == 1
    assert all(torch.equal(p, old) for p, old in zip(loop.network.parameters(), before, strict=True))


MORE = ("training.precision='bf16'", "noise.oversampling=64", "ema={decay=0.9}")


@pytest.mark.parametrize(("name", "overrides"), [("adamw", ()), ("lion", MORE), ("adamw8bit", MORE)])
def test_a_step_waits_once_for_the_numbers_of_the_step_before(
    any_card: AnyCard, tmp_path: Path, name: str, overrides: tuple[str, ...]
) -> None:
    project = small.make(tmp_path / "a project")
    found = small.training(
        project, "run.device='cuda'", f"optimizer.name='{name}'", "logging.every=1", "training.steps=9", *overrides
    )
    with found.folder.opened():
        for finished in range(4):  # tables of the noise go there once for each shape
            found.loop.take_step(finished)
        with any_card.waits() as waits:
            for finished in range(4, 8):
                found.loop.take_step(finished)
    assert [wait for wait in waits if "vent" in wait and "ynchronize" in wait] == waits
    assert len(waits) == 4
