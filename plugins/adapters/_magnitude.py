"""DoRA's magnitudes: the lengths that the columns or rows of a weight have in the end (arXiv 2402.09353)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

OUTPUTS, INPUTS = 0, 1  # axes of a weight (out, in[, kh, kw])


def axis(magnitude: Tensor, weight: Tensor) -> int:
    """Which axis of a weight (out, in[, kh, kw]) has a magnitude for each place: (1, in[, 1, 1]) has one for each input
    as in the paper, (out, 1[, 1, 1]) for each output. The shape tells, not the count: layers are often square.

    Raises RuntimeError for any other shape.
    """
    count, shape = magnitude.numel(), tuple(magnitude.shape)
    fits = [a for a in (OUTPUTS, INPUTS) if count == weight.shape[a]]
    if len(shape) > 1:
        fits = [a for a in fits if shape[a] == count]
    if len(fits) != 1:
        raise RuntimeError(f"magnitudes {list(shape)} do not tell whether they are of outputs or inputs")
    return fits[0]


def lengths(weight: Tensor, along: int) -> Tensor:
    """Of each place of an axis of a weight, (out, 1[, 1, 1]) or (1, in[, 1, 1])."""
    others = [dim for dim in range(weight.ndim) if dim != along]
    return torch.linalg.vector_norm(weight, dim=others, keepdim=True)


def turned(whole: Tensor, magnitude: Tensor) -> Tensor:
    """m * V / |V| for V the weight with its change in it (Liu et al. 2024, equation 5)."""
    along = axis(magnitude, whole)
    length = lengths(whole, along)
    return whole * (magnitude.reshape(length.shape) / length)


class Magnitude(nn.Module):
    """The trained magnitudes of one layer, where peft looks for its own."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(lengths(weight.detach().float(), INPUTS))


class Turned:
    """The forward pass of a peft layer whose weight is m * V / |V|, in place of peft's, which knows one axis only.

    As in the paper's section 4.3 no gradient goes through |V|. The factor is applied less 1, in float32: in 16 bits
    most inputs times 1.001 are the inputs.
    """

    @staticmethod
    def forward(layer: Any, *, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """x: inputs; result: what the base layer makes of them. Returns the output of the turned layer."""
        base, scaling = layer.get_base_layer(), layer.scaling[active_adapter]
        down, up = layer.lora_A[active_adapter], layer.lora_B[active_adapter]
        magnitude = layer.lora_magnitude_vector[active_adapter].weight
        with torch.no_grad():
            product = (up.weight.flatten(1) @ down.weight.flatten(1)).reshape(base.weight.shape)
            whole = base.weight.float() + scaling * product
            along = axis(magnitude, whole)
            length = lengths(whole, along)
        factor = magnitude / length
        dropped = layer.lora_dropout[active_adapter](x)
        if along == INPUTS:
            factor = factor.reshape(-1, *(1,) * (base.weight.ndim - 2))
            return result + _without_bias(base, x * (factor - 1)) + up(down(dropped * factor)) * scaling
        factor = factor.reshape(-1, *(1,) * (base.weight.ndim - 2))
        plain = result if base.bias is None else result - base.bias.reshape(factor.shape)
        return result + plain * (factor - 1) + up(down(dropped)) * scaling * factor


def _without_bias(base: Any, x: Tensor) -> Tensor:
    if isinstance(base, nn.Conv2d):
        return functional.conv2d(x, base.weight, None, base.stride, base.padding, base.dilation, base.groups)
    return functional.linear(x, base.weight)
