"""Means and variances of the winner among k candidates, by numerical integration: what oversampling does to the noise.

A candidate is the pair (a, q) of plugins/noise/_nearest.py. On a fine grid of pairs with their probabilities, sorted by
score, the winner of k is at rank share p with density k (1 - p)^(k - 1), so its moments are sums over the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, ndtr
from scipy.stats import chi2

from ._settings import Metric

Array = NDArray[np.float64]

GRID = 201  # points per axis, over +- 8 standard deviations
LEAST_RMS, MOST_RMS = 1e-3, 1e3  # of the latents; beyond, the winner's moments no longer change


@dataclass(frozen=True)
class Moments:
    """Of the chosen noise n given the latent x; u = x / |x|."""

    mean: float  # E[n.u]; 0 for plain noise
    variance: float  # Var[n.u]; 1 for plain noise
    rest: float  # E[|n - (n.u) u|^2] / (D - 1); 1 for plain noise
    distance: float  # E[|n - x|]
    cosine: float  # E[n.u / |n|]; 0 for plain noise


@cache
def _grid(dim: int) -> tuple[Array, Array, Array]:
    """Pairs (a, q) and their probabilities, flattened."""
    edges = np.linspace(-8, 8, GRID + 1)
    middle, weight = (edges[1:] + edges[:-1]) / 2, np.diff(ndtr(edges))
    if dim == 1:
        return middle, np.zeros_like(middle), weight
    # The quantiles of q at the same probabilities as those of a, from the tail in which they are exact.
    q = np.where(middle < 0, chi2.ppf(ndtr(middle), dim - 1), chi2.isf(ndtr(-middle), dim - 1))
    a2, q2 = np.meshgrid(middle, q, indexing="ij")
    return a2.ravel(), q2.ravel(), np.outer(weight, weight).ravel()


@cache
def winner_moments(k: int, dim: int, rms: float, metric: Metric = "euclidean", among: int = 1) -> Moments:
    """Exact moments (to about 1e-3) of nearest-of-k noise for a latent of `dim` numbers with root mean square `rms`."""
    a, q, weight = _grid(dim)
    rho = rms * dim**0.5
    score = a * (a - 2 * rho) + q if metric == "euclidean" else -a / np.sqrt(a * a + q)
    order = np.argsort(score, kind="stable")
    share = np.concatenate([[0.0], np.cumsum(weight[order])]).clip(0, 1)
    chance = np.diff(_winner_below(share, k, among))
    chance /= chance.sum()
    a, q = a[order], q[order]
    mean = float(chance @ a)
    return Moments(
        mean=mean,
        variance=float(chance @ (a - mean) ** 2),
        rest=float(chance @ q) / max(1, dim - 1),
        distance=float(chance @ np.sqrt((a - rho) ** 2 + q)),
        cosine=float(chance @ (a / np.sqrt(a * a + q))),
    )


def _winner_below(share: Array, k: int, among: int) -> Array:
    """P(winner's rank share <= p): E[min(X, among)] / among, X ~ Binomial(k, p) being the candidates below p."""
    if among == k:
        return share
    few = k * share * (1 - betainc(among, k - among, share))  # E[X; X <= among]
    return few / among + betainc(among + 1, k - among, share)


@cache
def moments_table(k: int, dim: int, metric: Metric, among: int) -> tuple[Array, Array]:
    """log(rms), (P,), and for each the mean, variance and rest of `winner_moments`, (P, 3); for interpolation."""
    at = np.linspace(np.log(LEAST_RMS), np.log(MOST_RMS), 61)
    found = [winner_moments(k, dim, float(np.exp(x)), metric, among) for x in at]
    return at, np.array([[m.mean, m.variance, m.rest] for m in found])
