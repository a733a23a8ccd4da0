"""Oversampling: lazy, eager and the definition have one law, and every edge case is plain or well defined."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from plugins.noise import _nearest
from plugins.noise.oversampling import PLUGIN, nearest_of
from tests.cards import AnyCard
from tests.plugins.noise.laws import assert_same_law, naive_nearest, p_values, seeded
from trainer.batch import NoiseContext, NoiseDraw

CASES = [(k, among) for k in (2, 4, 64) for among in (1, 4) if among <= k]


def latent(dim: int, rms: float = 1.0, seed: int = 7) -> Tensor:
    x = torch.randn(dim, generator=seeded(seed))
    return x * rms * math.sqrt(dim) / x.norm()


def many(x: Tensor, rows: int, k: int, seed: int, **options: object) -> Tensor:
    """`rows` independent selections for one latent, (rows, D)."""
    return nearest_of(x.expand(rows, -1), k, generator=seeded(seed), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("k", "among"), CASES)
@pytest.mark.parametrize("dim", [16, 64, 1024])
def test_lazy_eager_and_the_definition_have_one_law(dim: int, k: int, among: int, metric: str) -> None:
    rows = 1500 if dim * k >= 65536 else 4000
    x = latent(dim)
    naive = naive_nearest(x, rows, k, metric, among, seeded(1))
    assert_same_law(many(x, rows, k, 2, metric=metric, among=among), naive, x)
    assert_same_law(many(x, rows, k, 3, metric=metric, among=among, candidates="eager"), naive, x)


@pytest.mark.parametrize(("dim", "rms"), [(64, 0.18), (64, 3.0), (2, 1.5), (3, 1.0)])
def test_the_law_holds_for_latents_of_any_scale_and_for_points_in_a_plane(dim: int, rms: float) -> None:
    x = latent(dim, rms)
    naive = naive_nearest(x, 8000, 16, "euclidean", 1, seeded(1))
    drawn = many(x, 8000, 16, 2)
    assert_same_law(drawn, naive, x)
    assert float(drawn.abs().max()) < 7  # nothing is divided by the rounding of a vanishing part


def test_the_law_test_notices_one_degree_of_freedom_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    x = latent(16)
    naive = naive_nearest(x, 4000, 64, "euclidean", 1, seeded(1))
    right = _nearest.chi_square
    monkeypatch.setattr(_nearest, "chi_square", lambda shape, freedom, *rest: right(shape, freedom + 1, *rest))
    assert min(p_values(many(x, 4000, 64, 2), naive, x).values()) < 1e-8


def test_the_law_test_notices_a_winner_that_is_not_rescaled() -> None:
    x = latent(16)
    naive = naive_nearest(x, 4000, 64, "euclidean", 1, seeded(1))
    right, plain = many(x, 4000, 64, 2), many(x, 4000, 1, 2)
    u = x / x.norm()
    wrong = plain + ((right - plain) @ u)[:, None] * u  # the part along the latent is the winner's, the rest is not
    assert min(p_values(wrong, naive, x).values()) < 1e-8


def test_the_law_test_tells_the_metrics_and_ranks_apart() -> None:
    x = latent(64)
    naive = naive_nearest(x, 4000, 16, "euclidean", 1, seeded(1))
    assert min(p_values(many(x, 4000, 16, 2, metric="cosine"), naive, x).values()) < 1e-8
    assert min(p_values(many(x, 4000, 16, 2, among=4), naive, x).values()) < 1e-8


def test_cosine_leaves_the_law_of_the_length_as_it_is() -> None:
    x = latent(64)
    found = p_values(many(x, 4000, 64, 2, metric="cosine"), many(x, 4000, 1, 3), x)
    assert found["norm"] > 1e-3
    assert found["projection on the latent"] < 1e-8


@pytest.mark.parametrize(("k", "sigmas"), [(4, 0.84), (64, 1.91), (256, 2.33)])
@pytest.mark.parametrize("dim", [4096, 16384])
def test_alignment_is_nearly_independent_of_the_dimension(dim: int, k: int, sigmas: float) -> None:
    x = latent(dim)
    noise = many(x, 1200, k, 5)
    assert float((noise @ x / x.norm()).mean()) == pytest.approx(sigmas, abs=0.06)


@pytest.mark.parametrize(("dim", "percent"), [(4096, 2.25), (16384, 1.12), (65536, 0.56)])
def test_mean_distance_falls_as_measured_for_64_candidates(dim: int, percent: float) -> None:
    x = latent(dim)
    far = (many(x, 400, 64, 5) - x).norm(dim=1).mean()
    plain = math.sqrt(2 * dim)  # root mean square; the mean is 1 / (8 D) relative below it
    assert float(100 * (1 - far / plain)) == pytest.approx(percent, abs=0.04)


@pytest.mark.parametrize("candidates", ["lazy", "eager"])
def test_no_sample_is_farther_from_its_latent_than_the_plain_draw(candidates: str) -> None:
    x = torch.randn(64, 4, 8, 8, generator=seeded(1))
    chosen = nearest_of(x, 16, generator=seeded(2), candidates=candidates)  # type: ignore[arg-type]
    plain = torch.randn(x.shape, generator=seeded(2))
    gain = (plain - x).flatten(1).norm(dim=1) - (chosen - x).flatten(1).norm(dim=1)
    assert bool((gain > -1e-4).all())
    assert int((gain > 0.01).sum()) > 48  # 60 of 64 on average


def test_each_noise_is_nearer_to_its_own_latent_than_to_the_others() -> None:
    x = torch.randn(256, 64, generator=seeded(1))
    far = torch.cdist(x, nearest_of(x, 64, generator=seeded(2)))  # (latent, noise)
    others = (far.sum(dim=0) - far.diagonal()) / (len(x) - 1)
    assert float((far.diagonal() < others).float().mean()) > 0.95


@pytest.mark.parametrize("candidates", ["lazy", "eager"])
def test_where_the_first_candidate_wins_it_is_kept_bit_for_bit(candidates: str) -> None:
    x = torch.randn(400, 4, 8, 8, generator=seeded(1))
    chosen = nearest_of(x, 4, generator=seeded(2), candidates=candidates)  # type: ignore[arg-type]
    plain = torch.randn(x.shape, generator=seeded(2))
    kept = (chosen == plain).flatten(1).all(dim=1)
    assert 70 < int(kept.sum()) < 130  # a quarter, on average


def test_one_candidate_is_the_plain_draw() -> None:
    x = torch.randn(3, 4, 8, 8)
    assert torch.equal(nearest_of(x, 1, generator=seeded(2)), torch.randn(x.shape, generator=seeded(2)))


@pytest.mark.parametrize("k", [0, 1])
def test_zero_and_one_candidates_are_off(k: int) -> None:
    assert not PLUGIN.active(PLUGIN.Settings(k=k))
    assert PLUGIN.active(PLUGIN.Settings(k=2))


@pytest.mark.parametrize("candidates", ["lazy", "eager"])
def test_zero_latents_get_the_shortest_candidate(candidates: str) -> None:
    zero = torch.zeros(4000, 16)
    chosen = nearest_of(zero, 4, generator=seeded(2), candidates=candidates)  # type: ignore[arg-type]
    naive = torch.randn(4000, 4, 16, generator=seeded(3))
    naive = naive[torch.arange(4000), naive.norm(dim=2).argmin(dim=1)]
    assert_same_law(chosen, naive, latent(16))


def test_the_nearest_by_cosine_to_a_zero_latent_is_the_plain_draw() -> None:
    zero = torch.zeros(9, 16)
    chosen = nearest_of(zero, 8, generator=seeded(2), metric="cosine")
    assert torch.equal(chosen, torch.randn(zero.shape, generator=seeded(2)))


def test_a_zero_latent_beside_others_changes_nothing_for_them() -> None:
    x = torch.randn(3, 16, generator=seeded(1))
    with_zero = x * torch.tensor([[1.0], [0.0], [1.0]])
    a, b = nearest_of(x, 8, generator=seeded(2)), nearest_of(with_zero, 8, generator=seeded(2))
    assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert bool(b.isfinite().all())


@pytest.mark.parametrize("candidates", ["lazy", "eager"])
def test_one_dimension(candidates: str) -> None:
    x = torch.tensor([1.5])
    naive = naive_nearest(x, 4000, 8, "euclidean", 1, seeded(1))
    chosen = many(x, 4000, 8, 2, candidates=candidates)
    assert bool(chosen.isfinite().all())
    assert_same_law(torch.cat([chosen, chosen], dim=1), torch.cat([naive, naive], dim=1), torch.tensor([1.0, 0.5]))


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 4, 2, 8, 8), (5, 7), (4,)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("candidates", ["lazy", "eager"])
def test_any_shape_and_precision(shape: tuple[int, ...], dtype: torch.dtype, candidates: str) -> None:
    x = torch.randn(shape, generator=seeded(1)).to(dtype)
    noise = nearest_of(x, 8, generator=seeded(2), candidates=candidates)  # type: ignore[arg-type]
    assert (noise.shape, noise.dtype, noise.device) == (x.shape, dtype, x.device)
    if dtype != torch.float64:  # half precision only rounds the result
        exact = nearest_of(x.float(), 8, generator=seeded(2), candidates=candidates)  # type: ignore[arg-type]
        assert torch.equal(noise, exact.to(dtype))
    assert not torch.equal(noise, nearest_of(x, 8, generator=seeded(3)))


def test_half_precision_latents_of_real_size_are_scored_in_full() -> None:
    x = latent(65536)  # |n|^2 is beyond float16's range here
    half = many(x.half(), 200, 64, 5)
    assert float((half.float() @ x / x.norm()).mean()) == pytest.approx(1.91, abs=0.15)


@pytest.mark.parametrize(
    ("k", "among", "message"), [(0, 1, "k must be"), (-3, 1, "k must be"), (2, 3, "among must be")]
)
def test_wrong_arguments_are_refused(k: int, among: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest_of(torch.zeros(2, 3), k, generator=seeded(1), among=among)


@pytest.mark.parametrize(
    "settings",
    [
        {"k": -3},
        {"k": "many"},
        {"k": 64.0},
        {"k": True},
        {"k": 10**6},
        {"k": 4, "among": 5},
        {"k": 4, "among": 0},
        {"k": 4, "metric": "l1"},
        {"k": 4, "candidates": "all"},
        {"k": 4, "timesteps": [5, 5]},
        {"k": 4, "timesteps": [0, 1001]},
        {"k": 4, "candidate": "lazy"},
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PLUGIN.Settings.model_validate(settings)


def stage(x: Tensor, at: Tensor, **settings: object) -> tuple[Tensor, NoiseDraw]:
    plain = torch.randn(x.shape, generator=seeded(8))
    before = plain.clone()
    draw = PLUGIN(PLUGIN.Settings(**settings))(NoiseDraw(plain, plain), NoiseContext(x, at, seeded(2)))
    assert torch.equal(plain, before), "the draw it was given must stay as it is"
    return plain, draw


@pytest.mark.parametrize("candidates", ["lazy", "eager"])
@pytest.mark.parametrize("among", [1, 2])
def test_the_stage_sets_target_and_mixed_noise_alike(candidates: str, among: int) -> None:
    x = torch.randn(6, 4, 8, 8, generator=seeded(1))
    plain, draw = stage(x, torch.arange(6), k=64, candidates=candidates, among=among)
    assert draw.target is draw.mixed
    assert draw.target.shape == x.shape
    assert not torch.equal(draw.target, plain)


@pytest.mark.parametrize("candidates", ["lazy", "eager"])
def test_samples_outside_the_window_of_timesteps_keep_their_plain_noise(candidates: str) -> None:
    x = torch.randn(6, 4, 8, 8, generator=seeded(1))
    timesteps = torch.tensor([0, 199, 200, 500, 799, 800])
    everywhere = stage(x, timesteps, k=64, candidates=candidates)[1].target
    plain, draw = stage(x, timesteps, k=64, candidates=candidates, timesteps=[200, 800])
    assert torch.equal(draw.target[[0, 1, 5]], plain[[0, 1, 5]])
    assert torch.equal(draw.target[[2, 3, 4]], everywhere[[2, 3, 4]])


def test_gradients_do_not_reach_the_latents() -> None:
    x = torch.randn(2, 16, requires_grad=True)
    assert not nearest_of(x, 4, generator=seeded(1)).requires_grad


@pytest.mark.parametrize("candidates", ["lazy", "eager"])
def test_a_card_gets_the_same_law_without_waiting(any_card: AnyCard, candidates: str) -> None:
    x = latent(1024)
    on_card = x.cuda().expand(4000, -1)
    generator = torch.Generator("cuda").manual_seed(2)
    nearest_of(on_card, 64, generator=generator)
    with any_card.waits() as waits:
        noise = nearest_of(on_card, 64, generator=generator, candidates=candidates)  # type: ignore[arg-type]
    assert waits == []
    assert_same_law(noise.cpu(), naive_nearest(x, 1500, 64, "euclidean", 1, seeded(1)), x)
