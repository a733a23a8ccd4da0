"""Noises that are not stored: each is drawn anew from a number of its own, the same on every device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def number(text: str) -> int:
    """64 bits that a text stands for."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def noise_of(shape: tuple[int, ...], seed: int) -> Tensor:
    """The noise of a number below 2^63: N(0, I) of the shape, float32 on the CPU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stacked(noises: Sequence[Tensor], like: Tensor) -> Tensor:
    """(B, ...), with the device and the precision of `like`; towards CUDA the host does not wait."""
    return torch.stack(list(noises)).to(like.device, like.dtype, non_blocking=like.device.type == "cuda")
