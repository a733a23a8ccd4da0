"""Products of 8-bit integers: exact where numbers are integers, near where not, in both directions, under a LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gpu_check.int8 import Int8Linear, rounded, use_int8
from plugins.models.sd import StableDiffusion
from tests.tiny import tiny_sd
from tests.trainer.adapters.test_injection import prediction
from trainer.adapters import injection


def passes(layer: nn.Module, x: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out, and the gradient of what came in."""
    given = x.clone().requires_grad_()
    found = layer(given)
    found.backward(back)
    assert given.grad is not None
    return found.detach(), given.grad


def linear(rows: int, columns: int, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(columns, rows, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("tokens", [1, 16, 17, 40])
def test_integers_are_multiplied_exactly(tokens: int) -> None:
    layer = linear(24, 32)
    stream = torch.Generator().manual_seed(1)

    def whole(*shape: int) -> Tensor:
        found = torch.randint(-126, 127, shape, generator=stream).float()
        found[..., 0] = 127  # a row's scale is 1
        return found

    layer.weight.copy_(whole(24, 32))
    layer.bias.copy_(whole(24))
    x, back = whole(2, tokens, 32), whole(2, tokens, 24)
    for found, expected in zip(passes(Int8Linear(layer), x, back), passes(layer, x, back), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_numbers_come_out_near_in_both_directions(dtype: torch.dtype) -> None:
    layer = linear(320, 640)
    x, back = torch.randn(3, 50, 640), torch.randn(3, 50, 320)
    small = Int8Linear(layer)
    found = passes(small, x.to(dtype), back.to(dtype))
    for ours, exact in zip(found, passes(layer, x, back), strict=True):
        assert ours.dtype == dtype
        assert float((ours.float() - exact).norm() / exact.norm()) < 0.02


def test_rounding_is_to_the_nearest_of_each_row() -> None:
    values = torch.tensor([[1.0, -2.0, 0.4], [0.0, 0.0, 0.0]])
    numbers, scales = rounded(values)
    assert numbers.tolist() == [[64, -127, 25], [0, 0, 0]]  # 1 / (2 / 127) = 63.5, to even
    assert torch.allclose(numbers[:1] * scales[:1], values[:1], atol=float(scales[0]) / 2 + 1e-6)


def test_autocast_says_the_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert Int8Linear(linear(8, 16))(torch.randn(20, 16)).dtype == torch.bfloat16


def test_a_lora_trains_over_it(tmp_path: Path) -> None:
    """Its gradients are those over the exact base, nearly."""
    folder, gradients = tiny_sd(tmp_path / "b"), []
    for small in (False, True):
        family = StableDiffusion.load(str(folder))
        adapters = injection.inject(family, ["unet"], rank=4, alpha=4, seed=0)
        if small:
            assert use_int8(family.unet) > 20
        prediction(family).square().mean().backward()
        gradients.append(torch.cat([a.weights.up.grad.flatten() for a in adapters if a.weights.up.grad is not None]))
    exact, found = gradients
    assert float((found - exact).norm() / exact.norm()) < 0.05
