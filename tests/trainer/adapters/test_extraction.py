"""The LoRA between two checkpoints: what was trained comes back, what storing rounded does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plugins.models.sd import StableDiffusion
from tests.tiny import tiny_sd
from tests.trainer.adapters.test_tools import adapted, prediction
from trainer.adapters import injection, tools
from trainer.adapters.extraction import extract, rounding
from trainer.adapters.weights import delta
from trainer.errors import UserError
from trainer.protocols import Family

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def stored(folder: Path, dtype: torch.dtype, changed: bool = False) -> Family:
    """A base whose weights were stored as `dtype`, one layer trained before that."""
    family = StableDiffusion.load(str(folder))
    with torch.no_grad():
        if changed:
            family.parts["unet"].get_parameter(f"{LAYER}.weight").add_(0.05)
        for part in family.parts.values():
            for weight in part.parameters():
                weight.copy_(weight.to(dtype).float())
    return family


def test_extraction_gives_back_what_was_merged(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    tuned = adapted(StableDiffusion, folder)
    wanted = prediction(tuned)
    injection.merge(tuned)
    base = StableDiffusion.load(str(folder))
    found = extract(tuned, base, base.parts, rank=4, conv_rank=2).found
    assert found.kept == pytest.approx(1, abs=1e-4)
    assert tools.put_into(base, found.modules, 1.0, "extracted").layers == len(found.modules) == 127
    torch.testing.assert_close(prediction(base), wanted, atol=1e-4, rtol=1e-3)


def test_changes_that_no_module_holds_are_named(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    tuned, base = StableDiffusion.load(str(folder)), StableDiffusion.load(str(folder))
    with torch.no_grad():
        for name in (f"{LAYER}.weight", "down_blocks.0.resnets.0.conv1.weight", "conv_norm_out.bias"):
            tuned.parts["unet"].get_parameter(name).add_(0.05)
    found = extract(tuned, base, ["unet"], rank=4)
    assert set(found.lost) == {"unet.down_blocks.0.resnets.0.conv1.weight", "unet.conv_norm_out.bias"}
    assert extract(tuned, base, ["unet"], rank=4, conv_rank=2).lost == ("unet.conv_norm_out.bias",)


def test_extraction_from_equal_or_different_models_is_refused(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    one, two = StableDiffusion.load(str(folder)), StableDiffusion.load(str(folder))
    with pytest.raises(UserError, match="the same"):
        extract(one, two, ["unet"], rank=4)
    other = StableDiffusion.load(str(tiny_sd(tmp_path / "o", width=32)))
    with pytest.raises(UserError, match="two different architectures"):
        extract(other, one, ["unet"], rank=4)


@pytest.mark.parametrize(
    ("tuned", "base"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float16), (torch.float16, torch.bfloat16)],
)
def test_what_storing_rounded_is_not_taken_for_training(tmp_path: Path, tuned: torch.dtype, base: torch.dtype) -> None:
    folder = tiny_sd(tmp_path / "b")
    with pytest.raises(UserError, match=r"96 differ by rounding"):
        extract(stored(folder, tuned), stored(folder, base), ["unet", "text_encoder"], rank=4)
    made = extract(stored(folder, tuned, changed=True), stored(folder, base), ["unet", "text_encoder"], rank=4)
    assert list(made.found.modules) == ["lora_unet_" + LAYER.replace(".", "_")]
    assert (made.rounding, made.small) == (95, 0)


def test_layers_of_small_differences_are_left_out_on_request(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    base, tuned = StableDiffusion.load(str(folder)), StableDiffusion.load(str(folder))
    with torch.no_grad():
        tuned.parts["unet"].get_parameter(f"{LAYER}.weight").add_(0.01)
        tuned.parts["unet"].get_parameter(f"{LAYER.replace('to_q', 'to_k')}.weight").add_(0.1)
    made = extract(tuned, base, ["unet"], rank=1, min_diff=0.02)
    assert (len(made.found.modules), made.small) == (1, 1)
    again = tools.with_alpha(made.found, 0.5)
    for name, weights in made.found.modules.items():
        assert again.modules[name].alpha == 0.5
        torch.testing.assert_close(delta(again.modules[name]), delta(weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rounding_is_half_a_unit_in_the_last_place(dtype: torch.dtype) -> None:
    exact = torch.randn(4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.05
    kept = exact.to(dtype).float()
    error, bound = (kept.double() - exact).abs(), rounding(kept).double()
    assert bool((error <= bound).all())
    assert float((error / bound).max()) > 0.9
