"""Frozen linear layers whose products are of 8-bit integers in both directions: numbers and weights (W8A8).

A scale for each row of what comes in and for each row of the weights, rounded to the nearest: LLM.int8 (Dettmers et al.
2022, arXiv 2208.07339, section 2.1) without its part for outliers. The gradient of the input is a product of integers,
too: the weights' scales are multiplied into what comes back, whose rows get scales of their own. Weights under an
adapter have no gradient, so that no third product is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

HIGHEST = 127
FEWEST_ROWS = 17  # torch._int_mm on CUDA takes no fewer, and no sizes that are no multiples of 8
MULTIPLE = 8


class Int8Linear(nn.Module):
    """Stands for a frozen nn.Linear."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        numbers, scales = rounded(layer.weight.detach())
        self.register_buffer("numbers", numbers)  # (out, in) int8
        self.register_buffer("scales", scales)  # (out, 1) float32
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in autocast's precision where that is on, else in that of x."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        found: Tensor = _Product.apply(x.to(dtype), self.numbers, self.scales)
        return found if self.bias is None else found + self.bias.to(dtype)


def can_be_int8(layer: nn.Linear) -> bool:
    return not layer.weight.requires_grad and layer.in_features % MULTIPLE == layer.out_features % MULTIPLE == 0


def use_int8(root: nn.Module) -> int:
    """Replaces the frozen linear layers of `root`, those below adapters too, in place; returns how many."""
    found = [
        (parent, name, child)
        for parent in root.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and can_be_int8(child)
    ]
    for parent, name, layer in found:
        setattr(parent, name, Int8Linear(layer))
    return len(found)


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, n) -> the nearest integers of -127..127, int8, and the scale of each row, (rows, 1) float32."""
    scales = values.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-30) / HIGHEST
    return (values.float() / scales).round().to(torch.int8), scales


def product(left: Tensor, right: Tensor) -> Tensor:
    """(m, k) and (k, n), int8 -> their product (m, n), int32."""
    rows = len(left)
    if rows < FEWEST_ROWS:
        left = torch.cat([left, left.new_zeros(FEWEST_ROWS - rows, left.shape[1])])
    found: Tensor = torch._int_mm(left, right)
    return found[:rows]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, numbers: Tensor, scales: Tensor) -> Tensor:
        context.save_for_backward(numbers, scales)
        rows, own = rounded(x.reshape(-1, x.shape[-1]))
        found = product(rows, numbers.t()).float().mul_(own).mul_(scales.t())
        return found.to(x.dtype).reshape(*x.shape[:-1], len(numbers))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        numbers, scales = context.saved_tensors
        rows, own = rounded(gradient.reshape(-1, gradient.shape[-1]).float() * scales.t())
        found = product(rows, numbers).float().mul_(own)
        return found.to(gradient.dtype).reshape(*gradient.shape[:-1], numbers.shape[1]), None, None
