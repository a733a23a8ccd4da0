"""One training step with known answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer import registry
from trainer.batch import Batch, Geometry, NoiseDraw
from trainer.errors import UserError
from trainer.losses import Loss
from trainer.noise import NoiseChain, Streams
from trainer.protocols import Objective
from trainer.step import TrainingStep
from trainer.timesteps import Timesteps

ALPHAS = torch.linspace(0.999, 0.005, 1000)


def batch(size: int = 3, *, latents: Tensor | None = None) -> Batch:
    pair = torch.zeros(size, 2, dtype=torch.long)
    found = torch.randn(size, 4, 8, 8, generator=torch.Generator().manual_seed(1)) if latents is None else latents
    names = tuple(f"{i}.png" for i in range(size))
    return Batch(names, ("",) * size, Geometry(pair, pair, pair), torch.ones(size), latents=found)


def streams() -> Streams:
    return Streams(seed=7, step=3, micro_batch=0, rank=0, device=torch.device("cpu"))


def chain(**settings: object) -> NoiseChain:
    built = {}
    for name, value in settings.items():
        plugin = registry.find("noise", name)
        built[name] = plugin(plugin.Settings(**{plugin.headline: value}))
    return NoiseChain(built)


def step(objective: Objective, predict: Callable[..., Tensor], noise: NoiseChain) -> TrainingStep:
    return TrainingStep(predict, lambda pixels: pixels, objective, noise, Timesteps(), Loss())


@pytest.mark.parametrize("k", [0, 64])
def test_who_knows_the_clean_latents_has_no_loss(k: int) -> None:
    """The noise that is mixed in and the noise of the target are the same selected noise.

    Forks of other trainers kept the plain noise in the target; a prediction computed from the noisy latents alone
    shows it at once.
    """
    objective = registry.find("objectives", "epsilon")(ALPHAS)
    data = batch()

    def predict(noisy: Tensor, timesteps: Tensor, *_: object) -> Tensor:
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in objective.signal_and_noise(timesteps))
        assert data.latents is not None
        return (noisy - alpha * data.latents) / sigma

    result = step(objective, predict, chain(**({"oversampling": k} if k else {})))(data, streams())
    assert float(result.loss) < 1e-6


def test_the_planted_bug_of_other_trainers_is_seen() -> None:
    """The same check with a stage that changes only what is mixed in fails by a wide margin."""
    objective = registry.find("objectives", "epsilon")(ALPHAS)
    data = batch()
    noise = chain(oversampling=64)

    class KeepsPlainTarget(NoiseChain):
        def draw(self, clean: Tensor, timesteps: Tensor, streams: Streams) -> NoiseDraw:
            plain = super().draw(clean, timesteps, streams).mixed.roll(1, 0)
            return NoiseDraw(target=plain, mixed=noise.draw(clean, timesteps, streams).mixed)

    def predict(noisy: Tensor, timesteps: Tensor, *_: object) -> Tensor:
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in objective.signal_and_noise(timesteps))
        assert data.latents is not None
        return (noisy - alpha * data.latents) / sigma

    assert float(step(objective, predict, KeepsPlainTarget({}))(data, streams()).loss) > 1


def test_a_noise_stage_moves_no_timestep() -> None:
    objective = registry.find("objectives", "velocity")(ALPHAS)
    seen = [
        step(objective, lambda noisy, *_: noisy, noise)(batch(), streams())
        for noise in (chain(), chain(oversampling=64))
    ]
    assert torch.equal(seen[0].timesteps, seen[1].timesteps)
    assert not torch.equal(seen[0].per_sample, seen[1].per_sample)


@pytest.mark.parametrize("k", [0, 1])
def test_one_candidate_is_bit_equal_to_no_setting(k: int) -> None:
    plugin = registry.find("noise", "oversampling")
    assert not plugin.active(plugin.Settings(k=k))
    clean, t = torch.randn(2, 4, 8, 8), torch.zeros(2, dtype=torch.long)
    plain = chain().draw(clean, t, streams()).mixed
    one = NoiseChain({"oversampling": plugin(plugin.Settings(k=1))}).draw(clean, t, streams()).mixed
    assert torch.equal(plain, one)


def test_a_nan_of_the_vae_names_the_file() -> None:
    data = batch(2)
    pixels = torch.zeros(2, 3, 8, 8)
    pixels[1, 0, 0, 0] = float("nan")
    live = Batch(data.names, data.captions, data.geometry, data.weights, pixels=pixels)
    objective = registry.find("objectives", "epsilon")(ALPHAS)
    with pytest.raises(UserError, match=r"^1\.png"):
        step(objective, lambda noisy, *_: noisy, chain())(live, streams())
