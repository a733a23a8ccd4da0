"""One training step with known answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer import registry
from trainer.batch import Batch, Geometry, NoiseDraw, NoiseSchedule
from trainer.errors import UserError
from trainer.protocols import Objective
from trainer.training.losses import Loss
from trainer.training.noise import NoiseChain, Streams
from trainer.training.step import TrainingStep, refuse_unsound
from trainer.training.timesteps import TimestepSampler

ALPHAS = torch.linspace(0.999, 0.005, 1000)


def batch(size: int = 3, *, latents: Tensor | None = None) -> Batch:
    pair = torch.zeros(size, 2, dtype=torch.long)
    found = torch.randn(size, 4, 8, 8, generator=torch.Generator().manual_seed(1)) if latents is None else latents
    names = tuple(f"{i}.png" for i in range(size))
    return Batch(names, ("",) * size, Geometry(pair, pair, pair), torch.ones(size), latents=found, images=names)


def streams() -> Streams:
    return Streams(seed=7, step=3, micro_batch=0, rank=0, device=torch.device("cpu"))


def chain(**settings: object) -> NoiseChain:
    built = {}
    for name, value in settings.items():
        plugin = registry.find("noise", name)
        built[name] = plugin(plugin.Settings(**{plugin.headline: value}))
    return NoiseChain(built)


def example(name: str) -> NoiseChain:
    plugin = registry.find("noise", name)
    return NoiseChain({name: plugin(plugin.Settings.model_validate(plugin.example))})


def step(objective: Objective, predict: Callable[..., Tensor], noise: NoiseChain) -> TrainingStep:
    return TrainingStep(predict, lambda pixels: pixels, objective, noise, TimestepSampler(), Loss())


PAIRING = [name for name in registry.names("noise") if registry.find("noise", name).phase == "pair"]


# The schedule of a base of discrete timesteps, and of a flow of continuous times.
OBJECTIVES = {"epsilon": NoiseSchedule.discrete(ALPHAS), "flow": NoiseSchedule(1000)}


def knowing(objective: Objective, data: Batch, name: str) -> Callable[..., Tensor]:
    """A network that knows the clean latents, and so the noise in what it is given."""

    def predict(noisy: Tensor, timesteps: Tensor, *_: object) -> Tensor:
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in objective.signal_and_noise(timesteps))
        assert data.latents is not None
        noise = (noisy - alpha * data.latents) / sigma
        return noise if name == "epsilon" else noise - data.latents

    return predict


@pytest.mark.parametrize("target", OBJECTIVES)
@pytest.mark.parametrize("name", ["", *PAIRING])
def test_who_knows_the_clean_latents_has_no_loss(name: str, target: str) -> None:
    """The noise that is mixed in and the noise of the target are the same selected noise.

    Forks of other trainers kept the plain noise in the target; a prediction computed from the noisy latents alone
    shows it at once.
    """
    objective = registry.find("objectives", target)(OBJECTIVES[target])
    data = batch()
    predict = knowing(objective, data, target)
    result = step(objective, predict, example(name) if name else chain())(data, streams())
    assert float(result.loss) < 1e-6


@pytest.mark.parametrize("target", OBJECTIVES)
@pytest.mark.parametrize("name", PAIRING)
def test_the_planted_bug_of_other_trainers_is_seen(name: str, target: str) -> None:
    """The same check with a stage that changes only what is mixed in fails by a wide margin."""
    objective = registry.find("objectives", target)(OBJECTIVES[target])
    data = batch()
    noise = example(name)

    class KeepsPlainTarget(NoiseChain):
        def draw(self, clean: Tensor, timesteps: Tensor, streams: Streams, **about: Any) -> NoiseDraw:
            plain = super().draw(clean, timesteps, streams, **about).mixed.roll(1, 0)
            return NoiseDraw(target=plain, mixed=noise.draw(clean, timesteps, streams, **about).mixed)

    kept = KeepsPlainTarget(noise.stages if noise.asks_network else {})
    predict = knowing(objective, data, target)
    assert float(step(objective, predict, kept)(data, streams()).loss) > 0.5


def test_a_noise_stage_moves_no_timestep() -> None:
    objective = registry.find("objectives", "velocity")(NoiseSchedule.discrete(ALPHAS))
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
    objective = registry.find("objectives", "epsilon")(NoiseSchedule.discrete(ALPHAS))
    found = step(objective, lambda noisy, *_: noisy, chain())(live, streams())
    assert found.sound is not None
    assert not found.loss.isfinite(), "else its step would be taken"
    with pytest.raises(UserError, match=r"^1\.png") as told:
        refuse_unsound(live.names, found.sound.tolist())
    assert len(told.value.problems) == 1
    assert step(objective, lambda noisy, *_: noisy, chain())(data, streams()).sound is None


def test_asking_the_network_moves_no_dropout_and_keeps_no_gradients() -> None:
    """The step itself, and every candidate, draws the same dropout as a run with plain noise."""
    objective = registry.find("objectives", "velocity")(NoiseSchedule.discrete(ALPHAS))
    seen: list[tuple[float, bool]] = []

    def predict(noisy: Tensor, *_: object) -> Tensor:
        seen.append((float(torch.rand(1)), torch.is_grad_enabled()))
        return noisy

    for noise in (chain(), chain(explore=3)):
        streams().seed_networks()
        step(objective, predict, noise)(batch(), streams())
    assert [graph for _, graph in seen] == [True, False, False, False, True]
    assert len({drawn for drawn, _ in seen}) == 1


def test_the_network_chooses_the_noise_of_its_least_loss() -> None:
    objective = registry.find("objectives", "epsilon")(NoiseSchedule.discrete(ALPHAS))
    found = [
        step(objective, lambda noisy, *_: noisy, example_of(k, rank))(batch(64), streams()).per_sample.mean()
        for k, rank in ((2, 1), (8, 1), (8, 8))
    ]
    plain = step(objective, lambda noisy, *_: noisy, chain())(batch(64), streams()).per_sample.mean()
    assert found[1] < found[0] < plain < found[2]


def example_of(k: int, rank: int) -> NoiseChain:
    plugin = registry.find("noise", "explore")
    return NoiseChain({"explore": plugin(plugin.Settings(k=k, rank=rank))})
