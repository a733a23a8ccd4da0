"""The Cayley transform of OFT: orthogonal matrices from any (arXiv 2306.07280)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def rotations(blocks: Tensor, limit: float) -> Tensor:
    """(I + Q)(I - Q)^-1 with Q = B - B^T, for blocks B (..., n, n); all of Q together are at most `limit` long, unless
    that is 0."""
    skew = blocks - blocks.mT
    length = float(skew.norm())
    if limit and length > limit:
        skew = skew * (limit / length)
    eye = torch.eye(blocks.shape[-1], device=blocks.device)
    return (eye + skew) @ torch.linalg.inv(eye - skew)
