"""Nearest of k Gaussian candidates (arXiv 2505.18521), without making the candidates.

Let x be a latent of D numbers, rho = |x|, u = x / rho, and write a candidate as n = a u + w with w orthogonal to u.
Then a ~ N(0, 1), q = |w|^2 ~ chi-square(D - 1), and the direction of w is uniform and independent of both. Which
candidate is nearest depends on the pairs (a, q) alone: |n - x|^2 = (rho - a)^2 + q. So one candidate is drawn, k - 1
more are drawn as pairs, and the winner is the drawn one with its two parts set to the winning pair. Its law is exactly
that of drawing all k.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from ._blocks import Blocks
from ._draws import chi_square, normal
from ._settings import Metric

TINY = 1e-20  # a latent of this length counts as zero: its square is below the range of float32
FLOOR = 1e-6  # of |n|^2: the least energy off the latent's direction that float32 tells from none
CHUNK = 8  # candidates that the eager way holds at once


def lazy_nearest(
    x: Tensor,  # (B, D)
    plain: Tensor,  # (B, D), candidate 0
    k: int,
    generator: Generator,
    metric: Metric,
    among: int,
    acts: Tensor | None = None,  # (B,) bool: the others keep candidate 0
    blocks: Blocks | None = None,  # what is compared of latents and noises; None = all their numbers
) -> Tensor:
    """The winners, (B, D), in O(D + k) time and O(k) memory per row. Where candidate 0 wins, it is kept bit for bit."""
    if blocks:
        coarse = blocks.coordinates(plain)
        chosen = lazy_nearest(blocks.coordinates(x), coarse, k, generator, metric, among, acts)
        return plain + blocks.spread(chosen.sub_(coarse))
    others = (len(x), k - 1)
    rho = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_(min=TINY)
    a0 = row_dot(x, plain).div_(rho)
    energy = torch.linalg.vector_norm(plain, dim=1, keepdim=True).square_().clamp_(min=TINY)
    # Less than the floor would be rounding: |w|^2 of a candidate parallel to x, as all are for D = 1.
    q0 = torch.addcmul(energy, a0, a0, value=-1).maximum(FLOOR * energy)
    a = torch.cat([a0, normal(others, generator, x.device, x.dtype)], dim=1)  # (B, k)
    q = torch.cat([q0, chi_square(others, x.shape[1] - 1, generator, x.device, x.dtype)], dim=1)  # (B, k)
    winner = _pick(_scores(a, q, rho, metric), among, generator)  # (B, 1)
    if acts is not None:
        winner = winner * acts[:, None]
    a1, q1 = a.gather(1, winner), q.gather(1, winner)
    # A zero latent has no direction u: only the length of its noise is chosen, and a0 = 0, q0 = |plain|^2.
    scale = torch.where(rho > TINY, q1, q1.addcmul(a1, a1)).div_(q0).sqrt_()
    along = a1.addcmul_(scale, a0, value=-1).div_(rho)
    return (plain * scale).addcmul_(x, along)


def row_dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of the rows, (B, 1)."""
    if x.device.type == "cpu":  # no product of the latents' size: its page faults would cost more than the sum
        found = [torch.dot(a, b) for a, b in zip(x, y, strict=True)]
        return torch.stack(found)[:, None] if len(found) > 1 else found[0].view(1, 1)
    return (x * y).sum(dim=1, keepdim=True)


def _scores(a: Tensor, q: Tensor, rho: Tensor, metric: Metric) -> Tensor:
    """Lower is nearer, (B, k). Euclidean: |n - x|^2 less |x|^2, which is the same for all and would cancel.

    Rounding in float32 is 1e-7 of D, the spread of the scores more than sqrt(D).
    """
    if metric == "euclidean":
        return torch.addcmul(q, a, torch.sub(a, rho, alpha=2))
    cosine = a / (a.square() + q).sqrt()
    # Nothing is near a zero latent: the first candidate is as good as any.
    first = torch.arange(a.shape[1], device=a.device, dtype=a.dtype)
    return torch.where(rho > TINY, -cosine, first)


def _pick(scores: Tensor, among: int, generator: Generator) -> Tensor:
    """Index of one of the `among` lowest scores of each row, all equally likely, (B, 1)."""
    if among == 1:
        return scores.argmin(dim=1, keepdim=True)
    lowest = scores.topk(among, dim=1, largest=False, sorted=False).indices
    return lowest.gather(1, _any_of(among, len(scores), generator, scores.device))


def _any_of(count: int, batch: int, generator: Generator, device: torch.device) -> Tensor:
    return torch.randint(count, (batch, 1), generator=generator, device=generator.device).to(device)


def eager_nearest(
    x: Tensor,  # (B, D)
    plain: Tensor,  # (B, D), candidate 0
    k: int,
    generator: Generator,
    metric: Metric,
    among: int,
    acts: Tensor | None = None,  # (B,) bool: the others keep candidate 0
    blocks: Blocks | None = None,
) -> Tensor:
    """The winners, (B, D), with all candidates really drawn: O(k D) time and O((among + CHUNK) D) memory per row."""
    seen = blocks.coordinates if blocks else _all
    x = seen(x)
    best = plain.new_zeros(among + min(CHUNK, k - 1), *plain.shape)  # (among + chunk, B, D); the first `among` survive
    scores = torch.full(best.shape[:2], torch.inf, device=x.device, dtype=x.dtype)
    best[0], scores[0] = plain, _eager_scores(seen(plain[None]), x, metric)[0]
    for start in range(1, k, CHUNK):
        used = among + min(CHUNK, k - start)
        best[among:used] = normal((used - among, *plain.shape), generator, x.device, x.dtype)
        scores[among:used] = _eager_scores(seen(best[among:used]), x, metric)
        scores[:among], kept = scores[:used].topk(among, dim=0, largest=False)
        best[:among] = best.gather(0, kept[..., None].expand(-1, -1, plain.shape[1]))
    if among == 1:
        chosen = best[0]
    else:
        index = _any_of(among, len(x), generator, x.device)  # (B, 1)
        chosen = best.gather(0, index[None].expand(1, -1, plain.shape[1]))[0]
    return chosen if acts is None else torch.where(acts[:, None], chosen, plain)


def _all(rows: Tensor) -> Tensor:
    return rows


WAYS = {"lazy": lazy_nearest, "eager": eager_nearest}


def _eager_scores(noises: Tensor, x: Tensor, metric: Metric) -> Tensor:
    """Lower is nearer, (candidates, B): |n|^2 - 2 n.x, or minus the cosine times |x|."""
    length = torch.linalg.vector_norm(noises, dim=2)
    dot = (noises * x).sum(dim=2)
    return length.square() - 2 * dot if metric == "euclidean" else -dot / length


def rank_information(k: int, among: int = 1) -> float:
    """Nats that a noise picked at random among the `among` nearest of k carries about the latent, whatever D is.

    The rank share p of a plain noise is uniform; that of the picked one has the density f(p) = k / among * P(fewer than
    `among` of the other k - 1 candidates are nearer), and the divergence is E[ln f]. For among = 1: ln k - 1 + 1 / k.
    """
    if k <= 1 or among >= k:
        return 0.0
    if among == 1:
        return math.log(k) - 1 + 1 / k
    from scipy.special import betainc  # takes a while

    p = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    density = torch.from_numpy(k / among * betainc(k - among, among, 1 - p.numpy()))
    return float(torch.trapezoid(torch.xlogy(density, density), p))
