"""Autocast alone decides in which precision an adapted layer's input is; peft's casts there and back are left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.simulated_device import simulated_card
from tests.tiny import tiny_sdxl
from trainer import registry
from trainer.adapters import injection
from trainer.batch import Geometry


def adapted(folder: Path, **settings: float) -> Any:
    """A tiny SDXL, in bfloat16 under float32 adapters that already change something."""
    family = registry.find("models", "sdxl").load(str(tiny_sdxl(folder)))
    found = injection.inject(family, ["unet"], rank=4, alpha=4, conv_rank=2, **settings)  # type: ignore[arg-type]
    stream = torch.Generator().manual_seed(1)
    for adapter in found:
        for tensor in adapter.weights.tensors.values():
            tensor.data = torch.randn(tensor.shape, generator=stream) / 8
    return family


@contextmanager
def casting(family: Any) -> Iterator[None]:
    """As peft does it by itself."""
    layers = [adapter.layer for adapter in injection.adapters(family)]
    try:
        for layer in layers:
            layer.cast_input_dtype_enabled = True
        yield
    finally:
        for layer in layers:
            layer.cast_input_dtype_enabled = False


def passed(family: Any, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """What the network gives for a batch, and all its gradients."""
    stream = torch.Generator().manual_seed(2)
    inputs = torch.randn(2, 4, 8, 8, generator=stream).to(device)
    sizes = Geometry(*(torch.full((2, 2), 16, dtype=torch.long, device=device) for _ in range(3)))
    text = family.encode_text(["a cat", "two dogs"]).to(device)
    with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
        prediction = family.predict(inputs, torch.tensor([3, 500], device=device), text, sizes)
    (prediction.float().square().mean() * 8).backward()
    weights = [p for p in family.parts["unet"].parameters() if p.requires_grad]
    found = [p.grad.clone() for p in weights]
    for weight in weights:
        weight.grad = None
    return [prediction.detach(), *found]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_predictions_and_gradients_have_the_same_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    family = adapted(tmp_path / "base")
    family.to("cpu", dtype, ["unet"])
    ours = passed(family, dtype)
    with casting(family):
        theirs = passed(family, dtype)
    assert len(ours) > 20 and all(float(one.float().abs().max()) > 0 for one in ours)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_kernels_that_are_left_out(tmp_path: Path) -> None:
    """On the way there one for each layer whose input comes in bfloat16; the card's record tells."""
    family = adapted(tmp_path / "base")
    with simulated_card() as card:
        family.to("cuda", torch.bfloat16, ["unet"])
        family.text_parts, counts = (), []
        for theirs in (False, True):
            with card.recording() as seen:
                if theirs:
                    with casting(family):
                        passed(family, torch.bfloat16, "cuda")
                else:
                    passed(family, torch.bfloat16, "cuda")
            counts.append(seen.launched)
    layers = len(injection.adapters(family))
    assert counts[1] - counts[0] > layers


def test_dropout_draws_in_the_precision_that_it_had(tmp_path: Path) -> None:
    family = adapted(tmp_path / "base", dropout=0.1)
    assert all(adapter.layer.cast_input_dtype_enabled for adapter in injection.adapters(family))
