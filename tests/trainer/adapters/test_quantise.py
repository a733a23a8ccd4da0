"""Frozen weights in 8 and 4 bits under a LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plugins.models.sd import StableDiffusion
from tests.tiny import tiny_sd
from tests.trainer.adapters.test_injection import prediction
from trainer.adapters import injection, lora_file
from trainer.adapters.quantise import Bits, is_quantised, quantise
from trainer.errors import UserError


def small(folder: Path, bits: Bits) -> StableDiffusion:
    family = StableDiffusion.load(str(folder))
    for part in family.parts.values():
        quantise(part, bits, "cpu", torch.float32)
        part.train()  # bitsandbytes packs 4 bits anew for inference on a CPU, which needs multiples of 64
    return family


def held(family: StableDiffusion) -> int:
    """Bytes of the linear layers of the UNet."""
    layers = [m for m in family.unet.modules() if is_quantised(m) or type(m) is torch.nn.Linear]
    return sum(m.weight.numel() * m.weight.element_size() for m in layers)


@pytest.mark.parametrize(("bits", "near"), [(8, 0.02), (4, 0.2)])
def test_the_output_stays_near_and_the_weights_get_small(tmp_path: Path, bits: Bits, near: float) -> None:
    folder = tiny_sd(tmp_path / "b")
    plain, family = StableDiffusion.load(str(folder)), small(folder, bits)
    assert held(family) * (32 // bits) == held(plain)
    exact = prediction(plain)
    assert 0 < float((prediction(family) - exact).abs().mean() / exact.abs().mean()) < near


@pytest.mark.parametrize("bits", [8, 4])
def test_a_lora_trains_over_it_and_its_file_fits_the_full_base(tmp_path: Path, bits: Bits) -> None:
    folder = tiny_sd(tmp_path / "b")
    family = small(folder, bits)
    before = prediction(family)
    sizes = {"rank": 4, "alpha": 2.0, "conv_rank": 2}
    adapters = injection.inject(family, list(family.parts), seed=0, **sizes)  # type: ignore[arg-type]
    torch.testing.assert_close(prediction(family), before, atol=1e-4, rtol=0)
    family.to("cpu", torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        prediction(family).float().square().mean().backward()
    assert all(a.weights.up.grad is not None and bool(a.weights.up.grad.any()) for a in adapters)
    for adapter in adapters:
        torch.nn.init.normal_(adapter.weights.up, generator=torch.Generator().manual_seed(0))
    injection.save(family, tmp_path / "a.safetensors", dtype=torch.float32, metadata={})
    full = StableDiffusion.load(str(folder))
    injection.inject(full, list(full.parts), seed=1, **sizes)  # type: ignore[arg-type]
    injection.load_into(full, lora_file.read(tmp_path / "a.safetensors").modules, "file")
    for ours, theirs in zip(adapters, injection.adapters(full), strict=True):
        assert torch.equal(injection.delta_w(ours), injection.delta_w(theirs))
    with pytest.raises(UserError, match="full precision"):
        injection.merge(family)


def test_kinds_that_cannot_are_refused(tmp_path: Path) -> None:
    family = small(tiny_sd(tmp_path / "b"), 4)
    for method in ("dora", "loha", "lokr"):
        with pytest.raises(UserError, match="8 or 4 bits"):
            injection.inject(family, ["unet"], rank=4, alpha=1, method=method, seed=0)
