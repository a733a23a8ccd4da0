"""Optimal assignment of noises to latents (arXiv 2406.12303), also from more candidates than are ever made.

Let the rows of X (n x D) be latents and X^T = Q R with r = min(n, D) orthonormal columns in Q. A candidate noise is
Q c + w with c ~ N(0, I_r), |w|^2 ~ chi-square(D - r), and a direction of w, orthogonal to Q, that is uniform and
independent of both. Its squared distance to latent i is |x_i|^2 + |c|^2 + |w|^2 - 2 (R^T c)_i, so the assignment
depends on (c, |w|^2) alone.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor

from ._draws import chi_square, normal, sent
from ._nearest import FLOOR, TINY
from ._settings import Precision


def distances(latents: Tensor, noise: Tensor, precision: Precision = "float32") -> Tensor:
    """Euclidean distances of the rows, (n, D) and (m, D) -> (n, m), by |x|^2 + |n|^2 - 2 x.n: one matrix product.

    precision "float16" rounds both sides first (the paper's quantised assignment).
    """
    if precision == "float16":
        latents, noise = latents.half().to(latents.dtype), noise.half().to(noise.dtype)
    lengths = latents.square().sum(dim=1, keepdim=True) + noise.square().sum(dim=1)
    with torch.autocast(latents.device.type, enabled=False):  # a training loop's autocast would round the product
        return torch.addmm(lengths, latents, noise.T, alpha=-2).clamp_(min=0).sqrt_()


def solve(distance: Tensor) -> Tensor:
    """For each of n rows the column that it gets, all different, with the least sum; (n, m), m >= n -> (n,) long, on
    the CPU.

    Solved there (scipy's linear_sum_assignment). Raises ValueError when there are fewer columns than rows or NaNs.
    """
    if distance.shape[0] > distance.shape[1]:
        raise ValueError(f"{distance.shape[0]} latents need at least as many noises, found {distance.shape[1]}")
    _, columns = linear_sum_assignment(distance.cpu().numpy())
    return torch.from_numpy(columns)


def joint_assignment(
    x: Tensor,  # (n, D)
    plain: Tensor,  # (n, D): the first n candidates
    k: int,
    generator: Generator,
) -> Tensor:
    """n of n k candidates, assigned to the latents with the least sum of distances; (n, D).

    Only the first n candidates are given whole, of the others only (c, |w|^2) is drawn. A given one that is assigned is
    returned bit for bit; each of the others that is assigned takes w's direction from a given one that is not.
    """
    with torch.autocast(x.device.type, enabled=False):
        return _joint(x, plain, k, generator)


def _joint(x: Tensor, plain: Tensor, k: int, generator: Generator) -> Tensor:
    n, dim = x.shape
    q, r = torch.linalg.qr(x.T)  # (D, r), (r, n); duplicates and zeros only add columns that nothing depends on
    others = n * (k - 1)
    c0 = plain @ q  # (n, r)
    energy = plain.square().sum(dim=1).clamp_(min=TINY)
    w0 = (energy - c0.square().sum(dim=1)).maximum(FLOOR * energy)  # (n,)
    c = torch.cat([c0, normal((others, q.shape[1]), generator, x.device, x.dtype)])  # (n k, r)
    w = torch.cat([w0, chi_square((others,), dim - q.shape[1], generator, x.device, x.dtype)])  # (n k,)
    lengths = x.square().sum(dim=1, keepdim=True) + c.square().sum(dim=1) + w
    chosen = solve(torch.addmm(lengths, r.T, c.T, alpha=-2).clamp_(min=0).sqrt_())  # (n,), on the CPU
    winner, lender = sent(chosen, x.device), sent(_lenders(chosen, n), x.device)
    scale = (w[winner] / w0[lender]).sqrt_()[:, None]
    return torch.addmm(plain[lender] * scale, c[winner] - scale * c0[lender], q.T)


def _lenders(winner: Tensor, given: int) -> Tensor:
    """Which given noise each winner is made of, (n,): itself, or else one of those that did not win, each once."""
    whole = winner < given
    free = torch.ones(given, dtype=torch.bool, device=winner.device)
    free[winner[whole]] = False
    lender = winner.clone()
    lender[~whole] = free.nonzero()[: int((~whole).sum()), 0]
    return lender
