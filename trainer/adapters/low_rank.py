"""The best approximation of a weight change by a LoRA of given rank."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.adapters.weights import scale
from trainer.batch import DOWN, UP, AdapterWeights
from trainer.randomness import generator

_OVERSAMPLING = 16  # more directions than the rank make the random search for the range reliable
_POWER_STEPS = 4


def from_change(change: Tensor, rank: int) -> AdapterWeights:
    """The LoRA nearest (in the Frobenius norm) to a change (out, in) or (out, in, kh, kw), with alpha = rank.

    The rank is at most the change's own dimensions.
    """
    matrix = change.float().flatten(1)
    left, values, right = top_singular(matrix, min(rank, *matrix.shape))
    return _factors(left, values, right, change.shape)


def truncate(weights: AdapterWeights, rank: int, *, exact: bool = False) -> AdapterWeights:
    """The nearest LoRA of another rank to a LoRA; exact, and of alpha = rank, when the rank does not shrink. exact:
    computed in float64, for factors whose parts nearly cancel.

    Works on the factors: the singular values of up @ down are those of the product of their triangular parts.
    """
    dtype = torch.float64 if exact else torch.float32
    up, down = weights.up.to(dtype).flatten(1) * scale(weights), weights.down.to(dtype).flatten(1)
    shape = (weights.up.shape[0], *weights.down.shape[1:])
    left_basis, left_core = torch.linalg.qr(up)
    right_basis, right_core = torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    kept = min(rank, len(values))
    return _factors(left_basis @ left[:, :kept], values[:kept], right[:kept] @ right_basis.T, torch.Size(shape))


def top_singular(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` largest singular triplets of (m, n): left (m, count), values (count,), right (count, n).

    Large matrices by randomised range finding with power iterations (Halko et al. 2011, arXiv 0909.4061, algorithm 4.4)
    from a fixed seed.
    """
    wanted = count + _OVERSAMPLING
    if wanted * 2 >= min(matrix.shape):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :count], values[:count], right[:count]
    start = torch.randn(matrix.shape[1], wanted, generator=generator(0, "low rank", *matrix.shape)).to(matrix.device)
    basis, _ = torch.linalg.qr(matrix @ start)
    for _ in range(_POWER_STEPS):
        other, _ = torch.linalg.qr(matrix.T @ basis)
        basis, _ = torch.linalg.qr(matrix @ other)
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return (basis @ left)[:, :count], values[:count], right[:count]


def _factors(left: Tensor, values: Tensor, right: Tensor, shape: torch.Size) -> AdapterWeights:
    """Splits the singular values evenly between the factors, which keeps both of moderate size."""
    root, rank = values.clamp_min(0).sqrt(), len(values)
    up = (left * root).reshape(shape[0], rank, *(1,) * (len(shape) - 2))
    down = (root[:, None] * right).reshape(rank, *shape[1:])
    return AdapterWeights({DOWN: down.float().contiguous(), UP: up.float().contiguous()}, float(rank))
