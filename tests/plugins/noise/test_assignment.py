"""Assignment: the least total distance, an unchanged set of noises, and the law of assigning drawn candidates."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from pydantic import ValidationError
from scipy.optimize import linear_sum_assignment
from scipy.stats import kstest, norm
from torch import Tensor

from plugins.noise.assignment import PLUGIN, assign, assign_candidates
from plugins.noise.oversampling import nearest_of
from tests.plugins.noise.laws import assert_same_law, p_values, seeded
from trainer.batch import NoiseContext, NoiseDraw


def total(latents: Tensor, noise: Tensor) -> float:
    return float((latents - noise).flatten(1).norm(dim=1).sum())


@pytest.mark.parametrize("shape", [(5, 4, 3, 3), (5, 4, 2, 3, 3), (5, 1), (1, 4, 3, 3)])
def test_the_sum_of_distances_is_the_least_of_all_orders(shape: tuple[int, ...]) -> None:
    x, n = torch.randn(shape, generator=seeded(1)), torch.randn(shape, generator=seeded(2))
    paired = assign(x, n)
    least = min(total(x, n[list(order)]) for order in permutations(range(len(x))))
    assert total(x, paired) == pytest.approx(least, rel=1e-5)


def as_set(noise: Tensor) -> list[tuple[float, ...]]:
    return sorted(map(tuple, noise.flatten(1).tolist()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_noises_are_the_same_in_another_order(dtype: torch.dtype) -> None:
    x, n = torch.randn(64, 4, 4, 4, generator=seeded(1)).to(dtype), torch.randn(64, 4, 4, 4, generator=seeded(2))
    paired = assign(x, n)
    assert as_set(paired) == as_set(n)
    assert not torch.equal(paired, n)


def test_duplicates_and_zero_latents_can_be_assigned() -> None:
    x = torch.zeros(6, 8)
    x[3:] = 1
    n = torch.randn(6, 8, generator=seeded(2))
    assert as_set(assign(x, n)) == as_set(n)


def test_the_best_of_more_noises_are_taken() -> None:
    x, n = torch.randn(3, 8, generator=seeded(1)), torch.randn(6, 8, generator=seeded(2))
    least = min(total(x, n[list(chosen)]) for chosen in permutations(range(6), 3))
    assert total(x, assign(x, n)) == pytest.approx(least, rel=1e-5)


def test_half_precision_distances_return_the_noise_unrounded() -> None:
    x, n = torch.randn(64, 256, generator=seeded(1)), torch.randn(64, 256, generator=seeded(2))
    rough = assign(x, n, precision="float16")
    assert as_set(rough) == as_set(n)
    assert total(x, rough) == pytest.approx(total(x, assign(x, n)), rel=1e-4)


@pytest.mark.parametrize(
    ("latents", "noise", "message"),
    [((3, 4), (2, 4), "at least as many"), ((3, 4), (3, 5), "differ in shape"), ((3, 2, 2), (3, 4), "differ in shape")],
)
def test_noises_that_do_not_fit_are_refused(latents: tuple[int, ...], noise: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign(torch.zeros(latents), torch.zeros(noise))


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid numeric"):
        assign(torch.full((2, 3), torch.nan), torch.zeros(2, 3))


def test_the_distance_falls_as_the_authors_publish_for_128_samples() -> None:
    falls = []
    for seed in range(4):
        x = torch.randn(128, 4096, generator=seeded(seed))
        n = torch.randn(128, 4096, generator=seeded(100 + seed))
        falls.append(100 * (total(x, assign(x, n)) / (128 * float(torch.cdist(x, n).mean())) - 1))
    assert sum(falls) / len(falls) == pytest.approx(-1.92, abs=0.03)  # -1.93 published, -1.91 by geometry alone


def naive_joint(x: Tensor, k: int, repeats: int, seed: int) -> Tensor:
    """The definition: draw n k noises, assign n of them; (repeats, n, D)."""
    generator, found = seeded(seed), []
    for _ in range(repeats):
        noises = torch.randn(len(x) * k, x.shape[1], generator=generator)
        _, columns = linear_sum_assignment(torch.cdist(x, noises).numpy())
        found.append(noises[torch.from_numpy(columns)])
    return torch.stack(found)


def pool_of(kind: str) -> Tensor:
    x = torch.randn(6, 24, generator=seeded(1))
    if kind == "duplicates":
        x[3:] = x[:3]
    if kind == "zero":
        x[0] = 0
    if kind == "more samples than dimensions":
        return torch.randn(6, 4, generator=seeded(1)) + 0.5
    if kind == "as many samples as dimensions":
        return torch.randn(6, 6, generator=seeded(1)) + 0.5
    return x


def swapped(noise: Tensor, generator: torch.Generator) -> Tensor:
    """With the noises of the samples 0..2 and 3..5 exchanged in half of the pools, each pair for itself."""
    swap = torch.rand(len(noise), 3, 1, generator=generator) < 0.5
    first, second = noise[:, :3], noise[:, 3:]
    return torch.cat([torch.where(swap, second, first), torch.where(swap, first, second)], dim=1)


POOLS = ["independent", "duplicates", "zero", "more samples than dimensions", "as many samples as dimensions"]


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("k", [2, 8])
def test_joint_candidates_have_the_law_of_assigning_drawn_ones(kind: str, k: int) -> None:
    x = pool_of(kind)
    naive = naive_joint(x, k, 2500, seed=3)
    generator = seeded(4)
    lazy = torch.stack([assign_candidates(x, k, generator=generator) for _ in range(2500)])
    assert bool(lazy.isfinite().all())
    if kind == "duplicates":  # which of two equal latents gets which of their two noises is the solver's whim
        naive, lazy = swapped(naive, seeded(5)), swapped(lazy, seeded(6))
    toward = x[2] if float(x[2].norm()) else x[1]
    for sample in (0, 2, 5):
        assert_same_law(lazy[:, sample], naive[:, sample], toward)
    # The noises of a pool depend on each other: compare sums over pairs of them too.
    assert_same_law(lazy[:, 0] + lazy[:, 3], naive[:, 0] + naive[:, 3], toward)
    assert_same_law(lazy[:, 1] - lazy[:, 4], naive[:, 1] - naive[:, 4], toward)


def test_the_law_test_notices_candidates_that_are_assigned_one_by_one() -> None:
    x = pool_of("duplicates")
    naive = naive_joint(x, 2, 2500, seed=3)
    generator = seeded(4)
    alone = torch.stack([nearest_of(x, 2, generator=generator) for _ in range(2500)])
    assert min(p_values(alone[:, 0], naive[:, 0], x[0]).values()) < 1e-8


def test_a_pool_of_one_sample_gets_the_nearest_candidate() -> None:
    x = torch.randn(1, 32, generator=seeded(1))
    generator = seeded(2)
    joint = torch.cat([assign_candidates(x, 16, generator=generator) for _ in range(3000)])
    assert_same_law(joint, nearest_of(x.expand(3000, -1), 16, generator=seeded(3)), x[0])


def test_one_candidate_per_sample_is_the_assignment_of_plain_noise() -> None:
    x = torch.randn(8, 4, 4, 4, generator=seeded(1))
    plain = torch.randn(x.shape, generator=seeded(2))
    assert torch.equal(assign_candidates(x, 1, generator=seeded(2)), assign(x, plain))


def test_given_noises_that_win_are_kept_bit_for_bit() -> None:
    x = torch.randn(64, 4, 4, 4, generator=seeded(1))
    plain = {tuple(row) for row in torch.randn(x.shape, generator=seeded(2)).flatten(1).tolist()}
    joint = assign_candidates(x, 2, generator=seeded(2)).flatten(1).tolist()
    kept = sum(tuple(row) in plain for row in joint)
    assert 16 < kept < 48


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_joint_candidates_keep_shape_and_type(dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, 2, 4, 4, generator=seeded(1)).to(dtype)
    noise = assign_candidates(x, 4, generator=seeded(2))
    assert (noise.shape, noise.dtype) == (x.shape, dtype)


def test_no_candidate_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        assign_candidates(torch.zeros(2, 3), 0, generator=seeded(1))


def stage(x: Tensor, at: Tensor, seed: int = 8, **settings: object) -> tuple[Tensor, Tensor]:
    plain = torch.randn(x.shape, generator=seeded(seed))
    before = plain.clone()
    draw = PLUGIN(PLUGIN.Settings.model_validate(settings))(NoiseDraw(plain, plain), NoiseContext(x, at, seeded(2)))
    assert torch.equal(plain, before), "the draw it was given must stay as it is"
    assert draw.target is draw.mixed
    return plain, draw.target


def test_the_pooled_noise_stays_gaussian_and_correlates_with_its_latents() -> None:
    x = torch.randn(64, 16, generator=seeded(1)) + 0.7  # a common mean would pull noises that are chosen singly
    drawn = torch.cat([stage(x, torch.zeros(64), seed=s)[1] for s in range(20)])
    assert kstest(drawn.flatten().numpy(), norm.cdf).pvalue > 1e-3
    assert float(drawn.mean(dim=0).abs().max()) < 4.5 / len(drawn) ** 0.5
    along = (drawn * x.repeat(20, 1)).sum(dim=1) / x.repeat(20, 1).norm(dim=1)
    assert float(along.mean()) > 1


def test_the_stage_pairs_what_it_is_given() -> None:
    x = torch.randn(16, 4, 4, 4, generator=seeded(1))
    plain, noise = stage(x, torch.zeros(16), pool="batch")
    assert torch.equal(noise, assign(x, plain))


def test_a_smaller_pool_pairs_within_its_own_samples() -> None:
    x = torch.randn(8, 4, 4, 4, generator=seeded(1))
    plain, noise = stage(x, torch.zeros(8), pool=4)
    assert torch.equal(noise, torch.cat([assign(x[:4], plain[:4]), assign(x[4:], plain[4:])]))


@pytest.mark.parametrize("candidates", [1, 4])
def test_samples_outside_the_window_of_timesteps_keep_their_plain_noise(candidates: int) -> None:
    x = torch.randn(64, 4, 4, 4, generator=seeded(1))
    at = torch.arange(64) * 10
    plain, noise = stage(x, at, timesteps=[200, 400], candidates=candidates)
    acts = (at >= 200) & (at < 400)
    assert torch.equal(noise[~acts], plain[~acts])
    assert not torch.equal(noise[acts], plain[acts])
    if candidates == 1:
        assert torch.equal(noise[acts], assign(x[acts], plain[acts]))
    nobody = stage(x, at, timesteps=[900, 1000], candidates=candidates)
    assert torch.equal(*nobody)


def test_a_batch_of_one_is_left_alone() -> None:
    assert torch.equal(*stage(torch.ones(1, 4, 2, 2), torch.zeros(1)))


@pytest.mark.parametrize(
    ("settings", "active"),
    [({}, True), ({"pool": 0}, False), ({"pool": 1}, False), ({"pool": 1, "candidates": 2}, True), ({"pool": 2}, True)],
)
def test_what_changes_nothing_is_off(settings: dict[str, object], active: bool) -> None:
    assert PLUGIN.active(PLUGIN.Settings.model_validate(settings)) is active


@pytest.mark.parametrize(
    "settings",
    [
        {"pool": "all"},
        {"pool": -1},
        {"pool": True},
        {"candidates": 0},
        {"precision": "int8"},
        {"precision": "float16", "candidates": 2},
        {"timesteps": [900, 100]},
        {"k": 3},
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PLUGIN.Settings.model_validate(settings)


@pytest.mark.parametrize("candidates", [1, 3])
def test_by_caption_equal_captions_are_paired_as_if_they_were_alone(candidates: int) -> None:
    x, plain = torch.randn(12, 4, 2, 2, generator=seeded(1)), torch.randn(12, 4, 2, 2, generator=seeded(2))
    captions = tuple("a cat" if i % 3 else "a dog" for i in range(12))
    settings = PLUGIN.Settings(by="caption", candidates=candidates)
    context = NoiseContext(x, torch.zeros(12), seeded(3), captions)
    noise = PLUGIN(settings)(NoiseDraw(plain, plain), context).target
    if candidates == 1:
        for kind in ("a cat", "a dog"):
            own = [i for i in range(12) if captions[i] == kind]
            assert torch.equal(noise[own], assign(x[own], plain[own]))
    different = PLUGIN(settings)(
        NoiseDraw(plain, plain), NoiseContext(x, torch.zeros(12), seeded(3), tuple(map(str, range(12))))
    ).target
    assert torch.equal(different, plain) == (candidates == 1)


def test_by_caption_the_noise_of_each_caption_stays_gaussian_where_blind_pairing_skews_it() -> None:
    """C2OT's point, arXiv 2503.10636: two captions whose images differ in one direction."""
    x = torch.cat([torch.full((16, 8), 1.0), torch.full((16, 8), -1.0)])
    captions = ("bright",) * 16 + ("dark",) * 16
    means: dict[str, float] = {}
    for by in ("nothing", "caption"):
        stage, drawn = PLUGIN(PLUGIN.Settings.model_validate({"by": by})), []
        for seed in range(60):
            plain = torch.randn(32, 8, generator=seeded(seed))
            context = NoiseContext(x, torch.zeros(32), seeded(1), captions)
            drawn.append(stage(NoiseDraw(plain, plain), context).target[:16])
        bright = torch.cat(drawn)
        means[by] = float(bright.mean())
        assert (kstest(bright.flatten().numpy(), "norm").pvalue > 1e-3) == (by == "caption")
    assert abs(means["caption"]) < 0.05 < 0.2 < means["nothing"]


def test_captions_that_pair_nothing_are_told() -> None:
    by = PLUGIN.Settings(by="caption")
    assert PLUGIN.remark_on(by, ["cat"] * 5 + ["dog"] * 5) is None
    assert PLUGIN.remark_on(PLUGIN.Settings(), list("abcd")) is None
    assert "nothing is paired" in str(PLUGIN.remark_on(by, list("abcd")))
    with pytest.raises(ValueError, match="caption of every sample"):
        PLUGIN(by)(
            NoiseDraw(torch.zeros(2, 4), torch.zeros(2, 4)), NoiseContext(torch.zeros(2, 4), torch.zeros(2), seeded(1))
        )
