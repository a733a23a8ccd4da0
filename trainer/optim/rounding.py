"""Rounds float32 to bfloat16 at random, so that small updates are kept on the average instead of being lost."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

_LOW = 1 << 16  # bfloat16 is the upper half of a float32


def stochastic_round(values: Tensor, stream: Generator) -> Tensor:
    """float32 -> bfloat16 of the same shape: one of the two neighbours, each with the probability that makes the mean
    exact (to 2^-16 of their distance); what bfloat16 can hold stays as it is. Zamirai et al. 2020, arXiv 2010.06192.

    stream: a generator on the device of `values`, or on the CPU.
    """
    bits = values.view(torch.int32)
    noise = torch.randint(0, _LOW, bits.shape, generator=stream, device=stream.device, dtype=torch.int32)
    rounded = ((bits + noise.to(bits.device)) & -_LOW).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values).to(torch.bfloat16)
