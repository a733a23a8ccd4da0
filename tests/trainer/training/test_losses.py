"""Errors and weights against formulas worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.training.losses import WEIGHTINGS, Loss, Noisiness, masked_mean, weighted_mean


def at(snr: float, timestep: int = 500, *, predicts_noise: bool = True, size: int = 1) -> Noisiness:
    return Noisiness(torch.full((size,), timestep), torch.full((size,), float(snr)), predicts_noise, 1000)


def error(difference: float, loss: Loss, **noisiness: float) -> float:
    target = torch.zeros(1, 4, 2, 2)
    return float(loss.per_sample(target + difference, target, at(**{"snr": 1.0} | noisiness)))  # type: ignore[arg-type]


def test_errors_by_hand() -> None:
    assert error(3, Loss()) == 9
    assert error(-3, Loss(kind="l1")) == 3
    c = 0.5
    root = math.sqrt(9 + c * c)
    assert error(3, Loss(kind="huber", huber_c=c, huber_schedule="constant")) == pytest.approx(2 * c * (root - c))
    assert error(3, Loss(kind="smooth_l1", huber_c=c, huber_schedule="constant")) == pytest.approx(2 * (root - c))


def test_huber_schedules_by_hand() -> None:
    def c_at(schedule: str, snr: float, timestep: int) -> float:
        loss = Loss(kind="huber", huber_c=0.1, huber_scale=2.0, huber_schedule=schedule)  # type: ignore[arg-type]
        return float(loss._huber_c(at(snr, timestep)))

    assert c_at("constant", 1, 0) == pytest.approx(0.2)
    assert c_at("exponential", 1, 500) == pytest.approx(math.exp(math.log(0.1) / 1000 * 500) * 2)
    assert c_at("snr", 0.25, 0) == pytest.approx(0.9 / (1 + 2) ** 2 + 0.1)  # sigma = 2; the scale is not applied


@pytest.mark.parametrize(
    ("weighting", "snr", "epsilon", "velocity"),
    [
        ("none", 4, 1, 1),
        ("min_snr", 20, 5 / 20, 5 / 21),
        ("min_snr", 2, 1, 2 / 3),
        ("soft_min_snr", 5, 0.5, 2.5 / 6),
        ("debiased", 4, 0.5, 1 / 5),
        ("debiased", 1e6, 1000**-0.5, 1 / 1001),
        ("p2", 1, 2**-5, 2**-6),
    ],
)
def test_weights_by_hand(weighting: str, snr: float, epsilon: float, velocity: float) -> None:
    loss = Loss(weighting=weighting)  # type: ignore[arg-type]
    assert float(loss.timestep_weights(at(snr))) == pytest.approx(epsilon)
    assert float(loss.timestep_weights(at(snr, predicts_noise=False))) == pytest.approx(velocity)


def test_v_weights_by_hand() -> None:
    assert float(Loss(scale_v_like_noise=True).timestep_weights(at(3, predicts_noise=False))) == pytest.approx(0.75)
    assert float(Loss(v_like=0.5).timestep_weights(at(3))) == pytest.approx(1 + 0.5 * 4 / 3)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_zero_terminal_snr_gives_no_nan(weighting: str) -> None:
    loss = Loss(weighting=weighting, scale_v_like_noise=True)  # type: ignore[arg-type]
    assert torch.isfinite(loss.timestep_weights(at(0.0, predicts_noise=False))).all()


def test_mask_and_sample_weights_scale_the_loss() -> None:
    prediction, target = torch.zeros(2, 4, 3, 3), torch.full((2, 4, 3, 3), 2.0)
    mask = torch.zeros(2, 1, 3, 3)
    mask[0, 0, 0, 0] = 1
    each = Loss().per_sample(prediction, target, at(1.0, size=2), mask)
    assert each.tolist() == pytest.approx([4 / 9, 0])
    assert float(weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 1.0]))) == 1.75


def test_a_mask_of_cells_serves_latents_of_any_rank() -> None:
    """Of two samples and two channels: broadcasting from the right would take the mask's samples for channels."""
    stream = torch.Generator().manual_seed(0)
    error, mask = torch.rand(2, 2, 3, 5, generator=stream), torch.rand(2, 1, 3, 5, generator=stream)
    frames = error.unsqueeze(2)  # (B, C, 1, h, w)
    assert torch.equal(masked_mean(frames, mask), masked_mean(error, mask))


def test_a_normalised_area_counts_as_a_whole_picture() -> None:
    """OneTrainer's normalize_masked_area_loss: the error within the mask, divided by the mask's mean."""
    prediction, target = torch.randn(3, 4, 6, 6), torch.randn(3, 4, 6, 6)
    mask = torch.rand(3, 1, 6, 6)
    mask[2] = 0
    where = Noisiness(torch.zeros(3), torch.ones(3), True, 1000)
    found = Loss(normalize_masked_area=True).per_sample(prediction, target, where, mask)
    squared = (prediction - target) ** 2 * mask
    expected = squared[:2].mean((1, 2, 3)) / mask[:2].mean((1, 2, 3))
    assert torch.allclose(found[:2], expected) and float(found[2]) == 0
    constant = Loss(normalize_masked_area=True).per_sample(prediction * 0 + 2, target * 0, where, mask)
    assert torch.allclose(constant[:2], torch.tensor(4.0))
    assert torch.equal(
        Loss(normalize_masked_area=True).per_sample(prediction, target, where),
        Loss().per_sample(prediction, target, where),
    )
