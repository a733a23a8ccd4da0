"""model.vae_precision: what it changes is told, reaches the cache's keys and the samples, and never a saved file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from plugins.models import _vae
from tests.trainer.runs import make_project, train, training
from trainer.assembly import memory
from trainer.assembly import run as assembled
from trainer.assembly.model import open_family
from trainer.config import reading
from trainer.errors import UserError
from trainer.journal.console import Console

BF16 = "model.vae_precision='bf16'"
STORED = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path, images=3)


def told(project: Path, *overrides: str) -> list[str]:
    """What a run says before its first step about the precision."""
    console = Console(quiet=True)
    lines: list[str] = []
    console.say = lines.append  # type: ignore[method-assign]
    assembled.training(reading.read(project, overrides), console)
    return [line for line in lines if line.startswith("model.vae_precision")]


def latents(project: Path, *overrides: str) -> Tensor:
    found = training(project, *overrides).loader.batch(0).latents
    assert found is not None
    return found


@pytest.mark.parametrize("cached", ["data.cache_latents=true", "data.cache_latents=false"])
def test_how_far_latents_and_pictures_are_is_told(project: Path, cached: str) -> None:
    (line,) = told(project, BF16, cached)
    apart, least, levels = map(float, re.findall(r"\d[\d.e-]*(?= from| of 255|\))", line))
    assert 0 < apart < 0.01 and 0 < levels < 5
    assert least == pytest.approx((1 / 0.99915 - 1) ** 0.5, rel=0.02)  # of SD's schedule, betas from 0.00085
    assert told(project, cached) == []


def test_latents_of_each_precision_have_keys_of_their_own(project: Path, tmp_path: Path) -> None:
    disk = ("data.cache_to_disk=true", f"data.cache_dir='{tmp_path / 'cache'}'")
    exact, low = latents(project, *disk), latents(project, *disk, BF16)
    assert 0 < float((exact - low).abs().max()) < 0.05
    assert torch.equal(latents(project, *disk, BF16), low) and torch.equal(latents(project, *disk), exact)
    assert told(project, *disk, BF16) == []  # nothing is encoded any more


@pytest.mark.parametrize("words", ["encode", "decode"])
def test_a_vae_that_does_not_bear_fp16_is_told_with_the_key(project: Path, words: str) -> None:
    """Numbers beyond fp16 in the middle, which the norm before the end takes away again, as SDXL's has them."""
    file = project.parent / "base" / STORED
    tensors = load_file(file)
    tensors[f"{words}r.conv_in.weight"] *= 1e6
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.vae_precision = 'fp16': the VAE makes NaN .*\.png in it.*'bf16'"):
        training(project, "model.vae_precision='fp16'")
    assert told(project, BF16)


def test_a_saved_model_has_the_base_s_vae_bit_for_bit(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its samples are decoded in the precision that was asked for."""
    decoded: list[torch.dtype] = []
    real = _vae.decode

    def decode(vae: object, given: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        decoded.append(dtype)
        return real(vae, given, dtype)

    monkeypatch.setattr(_vae, "decode", decode)
    full = (
        "training.method='full'",
        "training.steps=1",
        "save={full='both',dtype='fp32'}",
        "training.precision='bf16'",
    )
    train(project, BF16, *full, "samples={prompts=['a cat'],width=16,height=16,steps=1}")
    assert decoded[-1] == torch.bfloat16
    base, out = load_file(project.parent / "base" / STORED), project.parent / "output" / "run"
    saved = load_file(out / "run" / STORED)
    assert saved.keys() == base.keys() and all(torch.equal(saved[name], base[name]) for name in base)
    file = load_file(out / "run.safetensors")
    assert torch.equal(file["first_stage_model.encoder.conv_in.weight"], base["encoder.conv_in.weight"])


def test_half_of_it_takes_less_memory(project: Path) -> None:
    def encoding(*overrides: str) -> float:
        family = open_family(reading.read(project, overrides), outline=True)
        return memory._encoding(family, list(family.vae.parameters()), (256, 256))

    assert 0.4 < encoding(BF16) / encoding() < 0.7
