"""What the law tests of the noise stages share: plain references and comparisons of samples."""

from __future__ import annotations

import torch
from scipy.stats import ks_2samp
from torch import Generator, Tensor


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def measures(noise: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Scalars of each row that tell laws apart; noise: (N, D), x: (D,), not zero."""
    across = torch.linspace(-1, 1, len(x)).cos() * x.roll(1)  # any fixed direction, made orthogonal to x
    across = across - x * (across @ x) / (x @ x)
    return {
        "projection on the latent": noise @ x / x.norm(),
        "norm": noise.norm(dim=1),
        "distance": (noise - x).norm(dim=1),
        "orthogonal direction": noise @ across / across.norm(),
        "both parts": noise @ (x / x.norm() + across / across.norm()),
        "one coordinate": noise[:, -1],
    }


def p_values(one: Tensor, other: Tensor, x: Tensor) -> dict[str, float]:
    """Kolmogorov-Smirnov's p of every measure of two samples of noise."""
    a, b = measures(one, x), measures(other, x)
    return {name: float(ks_2samp(a[name].numpy(), b[name].numpy()).pvalue) for name in a}


def assert_same_law(one: Tensor, other: Tensor, x: Tensor, least: float = 1e-4) -> None:
    """`least` leaves room for the smallest of several hundred p-values; wrong laws give far smaller ones."""
    found = p_values(one, other, x)
    worst = min(found, key=lambda name: found[name])
    assert found[worst] > least, f"{worst}: p = {found[worst]:.1e}"


def naive_nearest(x: Tensor, rows: int, k: int, metric: str, among: int, generator: Generator) -> Tensor:
    """The definition: draw k, keep the nearest (or any one of the `among` nearest). x: (D,) -> (rows, D)."""
    chosen = []
    for chunk in torch.arange(rows).split(max(1, 4_000_000 // (k * len(x)))):
        candidates = torch.randn(len(chunk), k, len(x), generator=generator)
        if metric == "euclidean":
            far = (candidates - x).norm(dim=2)
        else:
            far = 1 - torch.cosine_similarity(candidates, x.expand_as(candidates), dim=2)
        rank = torch.randint(among, (len(chunk),), generator=generator)
        index = far.argsort(dim=1)[torch.arange(len(chunk)), rank]
        chosen.append(candidates[torch.arange(len(chunk)), index])
    return torch.cat(chosen)
