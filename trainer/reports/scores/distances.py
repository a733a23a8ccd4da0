"""How far two sets of pictures are apart, from one row of features for each picture; all in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]  # (N, D)
NEIGHBOURS = 3  # of precision and recall, as in their paper


def frechet(one: Features, other: Features, weights: tuple[Features, Features] | None = None) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the means and covariances (Heusel et al. 2017, arXiv 1706.08500).

    weights: how often each picture counts, (N,) and (M,). With fewer pictures the distance comes out larger.
    """
    w1, w2 = weights or (np.ones(len(one)), np.ones(len(other)))
    (m1, c1), (m2, c2) = _moments(one, w1), _moments(other, w2)
    root = _root(c1)
    # tr (C1 C2)^(1/2) by a symmetric matrix with the same eigenvalues.
    inner = np.linalg.eigvalsh(root @ c2 @ root)
    between = float(np.sqrt(np.clip(inner, 0, None)).sum())
    return float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * between)


def _moments(x: Features, weights: Features) -> tuple[Features, Features]:
    """Mean (D,) and covariance (D, D), divided by one less than the number of pictures."""
    total = weights.sum()
    mean = weights @ x / total
    away = x - mean
    return mean, (away * weights[:, None]).T @ away / (total - 1)


def _root(matrix: Features) -> Features:
    values, vectors = np.linalg.eigh(matrix)
    root: Features = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


def kernel(one: Features, other: Features) -> Features:
    """(N, M): (x.y / D + 1)^3, KID's kernel (Binkowski et al. 2018, arXiv 1801.01401)."""
    found: Features = (one @ other.T / one.shape[1] + 1) ** 3
    return found


def kid(within: Features, across: Features, other: Features, weights: tuple[Features, Features] | None = None) -> float:
    """The squared maximum mean discrepancy, without bias: 0 on the average for two sets of one law, so that it may come
    out below. within, across, other: `kernel` of the first set, of both, of the second; weights: as of `frechet`; a
    picture is never a pair with itself.
    """
    w1, w2 = weights or (np.ones(len(within)), np.ones(len(other)))
    return _pairs(within, w1) + _pairs(other, w2) - 2 * float(w1 @ across @ w2) / float(w1.sum() * w2.sum())


def _pairs(values: Features, weights: Features) -> float:
    """The mean over pairs of two different pictures."""
    squares = weights**2
    of_pairs = float(weights.sum() ** 2 - squares.sum())
    return float(weights @ values @ weights - squares @ np.diagonal(values)) / of_pairs


def covered(points: Features, by: Features, neighbours: int = NEIGHBOURS) -> NDArray[np.bool_]:
    """(N,): which points lie within reach of the set `by`: nearer to one of it than that one's k-th neighbour in it
    (Kynkaanniemi et al. 2019, arXiv 1904.06991). The mean over the drawn pictures is precision, over the reference
    recall."""
    radii = np.partition(_squared(by, by), neighbours, axis=1)[:, neighbours]  # the nearest is the point itself
    return np.asarray((_squared(points, by) <= radii[None, :]).any(1))


def _squared(one: Features, other: Features) -> Features:
    """(N, M) squared distances."""
    found = (one**2).sum(1)[:, None] + (other**2).sum(1)[None, :] - 2 * one @ other.T
    return np.clip(found, 0, None)
