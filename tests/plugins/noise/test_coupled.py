"""Coupled noise: nothing is lost or added, the coupling only gets better, and it is remembered."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import kstest
from torch import Tensor

from plugins.noise.coupled import PLUGIN, Coupled
from tests.plugins.noise.laws import seeded
from trainer.batch import NoiseContext, NoiseDraw
from trainer.training.noise import NoiseChain

IMAGES, DIM = 24, 16
CLEAN = torch.randn(IMAGES, DIM, generator=seeded(1))


def stage(noises: int = 1, **settings: object) -> Coupled:
    return Coupled(PLUGIN.Settings.model_validate({"noises": noises, **settings}))


def met(found: Coupled, rows: list[int], *, stream: int = 3, plain: Tensor | None = None) -> Tensor:
    """The noise of some of the images in one batch."""
    plain = torch.zeros(len(rows), DIM) if plain is None else plain
    images = tuple(f"photos/{row}.png" for row in rows)
    context = NoiseContext(CLEAN[rows], torch.arange(len(rows)) * 100, seeded(stream), (), images, 7)
    return found(NoiseDraw(plain, plain), context).target


def dealt_out(found: Coupled) -> Tensor:
    """The noise that each image keeps, for a stage with one noise each: nobody meets anybody."""
    return torch.cat([met(found, [row]) for row in range(IMAGES)])


def far(noise: Tensor) -> float:
    return float((noise - CLEAN).norm(dim=1).sum())


def test_dealt_out_it_is_independent_gaussian() -> None:
    noise = torch.cat([met(stage(), [row % IMAGES]) for row in range(IMAGES)])
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    many = stage(64)
    first = torch.cat([met(many, [0], stream=s) for s in range(1000)])
    assert 50 < len(first.unique(dim=0)) <= 64


def test_all_images_in_one_batch_get_the_best_assignment_at_once() -> None:
    noise = dealt_out(stage())
    _, columns = linear_sum_assignment(torch.cdist(CLEAN, noise).numpy())
    assert torch.equal(met(stage(), list(range(IMAGES))), noise[columns])


def test_the_noises_stay_the_same_and_the_sum_of_distances_never_grows() -> None:
    found, rounds = stage(), seeded(5)
    before, last = dealt_out(found), math.inf
    for _ in range(40):
        met(found, torch.randperm(IMAGES, generator=rounds)[:4].tolist())
        kept = dealt_out(found)
        assert far(kept) <= last + 1e-3
        last = far(kept)
    assert torch.equal(kept.sort(dim=0).values, before.sort(dim=0).values)
    alone = far(torch.cat([met(stage(), list(range(row, row + 4))) for row in range(0, IMAGES, 4)]))
    best = far(met(found, list(range(IMAGES))))
    # What each batch finds by itself, what they find by telling each other, what is to be found.
    assert far(before) - last > 1.5 * (far(before) - alone)
    assert far(before) - last > 0.65 * (far(before) - best)


def test_what_an_image_took_it_brings_the_next_time() -> None:
    found = stage()
    took = met(found, [0, 1, 2, 3])
    assert torch.equal(torch.cat([met(found, [row]) for row in (2, 0, 3, 1)]), took[[2, 0, 3, 1]])


def test_an_image_that_is_there_twice_loses_no_noise() -> None:
    found = stage(2)
    before = [met(found, [row], stream=s) for row in (0, 1) for s in range(30)]
    for s in range(20):
        together = met(found, [0, 0, 1], stream=s)
        assert together.isfinite().all()
    after = [met(found, [row], stream=s) for row in (0, 1) for s in range(30)]
    assert torch.equal(torch.cat(before).unique(dim=0), torch.cat(after).unique(dim=0))


def test_it_goes_on_from_its_state_as_if_it_had_not_stopped() -> None:
    found, rounds = stage(3), [[0, 1, 2, 3], [3, 4, 5, 0], [5, 1, 0, 2]]
    for rows in rounds:
        met(found, rows)
    state = found.state_dict()
    going_on = stage(3)
    going_on.load_state_dict(state)
    for rows in rounds:
        assert torch.equal(met(found, rows, stream=11), met(going_on, rows, stream=11))
    assert not torch.equal(found.state_dict()["noises"], state["noises"])


def test_outside_its_timesteps_the_plain_noise_stays() -> None:
    plain = torch.randn(4, DIM, generator=seeded(2))
    noise = met(stage(timesteps=[100, 300]), [0, 1, 2, 3], plain=plain)
    assert [torch.equal(noise[i], plain[i]) for i in range(4)] == [True, False, False, True]


def test_what_it_cannot_do_is_told() -> None:
    assert PLUGIN.remark(PLUGIN.Settings(noises=2), 2, 1) is None
    assert "one sample at a time" in (PLUGIN.remark(PLUGIN.Settings(noises=2), 1, 4) or "")
    with pytest.raises(ValueError, match="key of every image"):
        stage()(NoiseDraw(CLEAN, CLEAN), NoiseContext(CLEAN, torch.zeros(IMAGES), seeded(1)))


def test_what_a_trial_draws_is_not_remembered() -> None:
    found = stage()
    chain = NoiseChain({"coupled": found})
    met(found, [0, 1, 2])
    before = found.state_dict()
    with chain.unremembered():
        met(found, [0, 3, 4])
        assert len(found.state_dict()["images"]) == 5
    after = found.state_dict()
    assert (after["images"], after["noises"].tolist()) == (before["images"], before["noises"].tolist())
    assert list(chain.remembering) == ["noise.coupled"]
