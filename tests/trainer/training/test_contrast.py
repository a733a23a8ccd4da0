"""A step by prompts, against formulas that are written out here and diffusers' own denoising."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from trainer import registry
from trainer.batch import Batch, Contrast, Geometry, NoiseSchedule, TextStates
from trainer.training.contrast import ContrastStep, denoising_times
from trainer.training.losses import Loss
from trainer.training.network import Base
from trainer.training.noise import NoiseChain, Streams, gaussian
from trainer.training.step import StepResult

SCHEDULER = DDIMScheduler(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing"
)
SCHEDULE = NoiseSchedule.discrete(SCHEDULER.alphas_cumprod)
STREAMS = Streams(seed=7, step=0, micro_batch=0, rank=0, device=torch.device("cpu"))
WORDS = {"target": 0.3, "positive": 0.9, "unconditional": -0.2, "neutral": 0.5}


class Toy:
    """A network whose answer is a function of latents, time and the one number that stands for a prompt."""

    def __init__(self) -> None:
        self.is_base, self.strength = False, 1.0
        self.asked: list[tuple[str, int]] = []  # prompt, timestep

    def __call__(
        self, noisy: Tensor, times: Tensor, text: TextStates, captions: Any, geometry: Geometry, *_: Any
    ) -> Tensor:
        assert len(noisy) == len(times) == len(text["hidden"]) == len(captions) == len(geometry.target)
        self.asked += [(caption, int(time)) for caption, time in zip(captions, times, strict=True)]
        assert [WORDS[c] for c in captions] == pytest.approx(text["hidden"].flatten().tolist())
        return answer(noisy, times, text["hidden"], 0.0 if self.is_base else self.strength)

    @contextmanager
    def as_it_was(self) -> Iterator[None]:
        self.is_base = True
        yield
        self.is_base = False

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        self.strength = strength
        yield
        self.strength = 1.0


def answer(noisy: Tensor, times: Tensor, word: Tensor, strength: float) -> Tensor:
    word, times = word.view(-1, 1, 1, 1), times.view(-1, 1, 1, 1)
    return noisy.sin() * (1 + word) + word * times / 1000 + 0.1 * strength * noisy.cos()


def states(prompt: str, count: int) -> TextStates:
    return TextStates({"hidden": torch.full((count, 1), WORDS[prompt])})


def batch(guidance: float, *, denoised: int = 3, strength: float = 1.0) -> Batch:
    pair = torch.full((2, 2), 64)
    others = ("positive", "unconditional", "neutral")
    contrast = Contrast(*others, guidance, strength, denoised, {name: states(name, 2) for name in others})
    return Batch(
        ("a", "a"), ("target",) * 2, Geometry(pair, pair * 0, pair), torch.tensor([1.0, 1.0]),
        torch.zeros(2, 4, 8, 8), text=states("target", 2), contrast=contrast,
    )  # fmt: skip


def step(toy: Toy, *, prediction: str = "epsilon", guidance: float = 3.0) -> ContrastStep:
    return ContrastStep(
        network=toy,
        base=Base(toy, toy.as_it_was),
        scaled=toy.scaled,
        objective=registry.find("objectives", prediction)(SCHEDULE),
        noise=NoiseChain({}),
        loss=Loss(),
        steps=10,
        guidance=guidance,
    )


def taken(data: Batch, **settings: Any) -> tuple[StepResult, Toy]:
    toy = Toy()
    made = step(toy, **settings)
    with made.held(data):
        return made(data, STREAMS), toy


def begun(denoised: int, strength: float, prediction: str, guidance: float) -> tuple[Tensor, Tensor]:
    """Latents and times that diffusers' DDIM comes to."""
    scheduler = DDIMScheduler.from_config(SCHEDULER.config, prediction_type=prediction, clip_sample=False)
    scheduler.set_timesteps(10)
    noisy = gaussian(torch.zeros(2, 4, 8, 8), STREAMS.generator("noise"))
    for time in scheduler.timesteps[:denoised]:
        without, with_it = (
            answer(noisy, time.expand(2), torch.full((2,), WORDS[name]), strength)
            for name in ("unconditional", "target")
        )
        noisy = scheduler.step(without + guidance * (with_it - without), time, noisy, eta=0.0).prev_sample
    return noisy, scheduler.timesteps[denoised].expand(2)


@pytest.mark.parametrize(("prediction", "name"), [("epsilon", "epsilon"), ("v", "v_prediction")])
@pytest.mark.parametrize(("guidance", "strength", "denoising"), [(2.0, 1.0, 3.0), (-1.5, -2.0, 1.0)])
def test_the_loss_is_the_distance_to_the_formula(
    prediction: str, name: str, guidance: float, strength: float, denoising: float
) -> None:
    """Where diffusers' DDIM comes to, with the base's answers put together by hand."""
    found, _ = taken(batch(guidance, strength=strength), prediction=prediction, guidance=denoising)
    noisy, times = begun(3, strength, name, denoising)
    of = {prompt: answer(noisy, times, torch.full((2,), word), 0.0) for prompt, word in WORDS.items()}
    target = of["neutral"] + guidance * (of["positive"] - of["unconditional"])
    now = answer(noisy, times, torch.full((2,), WORDS["target"]), strength)
    torch.testing.assert_close(found.per_sample, ((now - target) ** 2).flatten(1).mean(1), rtol=2e-4, atol=1e-6)
    assert found.timesteps.tolist() == times.tolist()


def test_without_guidance_the_target_is_the_neutral_answer() -> None:
    found, toy = taken(batch(0.0))
    noisy, times = begun(3, 1.0, "epsilon", 3.0)
    now, neutral = (answer(noisy, times, torch.full((2,), WORDS[n]), s) for n, s in (("target", 1.0), ("neutral", 0.0)))
    torch.testing.assert_close(found.per_sample, ((now - neutral) ** 2).flatten(1).mean(1), rtol=2e-4, atol=1e-6)
    assert toy.asked[-4:] == [("neutral", 699)] * 2 + [("target", 699)] * 2


def test_erasing_and_enhancing_are_mirror_images_about_the_neutral_answer() -> None:
    """For a linear loss's sake: the mean of the two squared distances is that to the neutral, and what is between."""
    losses = {guidance: taken(batch(guidance))[0].per_sample for guidance in (-2.0, 0.0, 2.0)}
    noisy, times = begun(3, 1.0, "epsilon", 3.0)
    far = [answer(noisy, times, torch.full((2,), WORDS[name]), 0.0) for name in ("positive", "unconditional")]
    between = ((2.0 * (far[0] - far[1])) ** 2).flatten(1).mean(1)
    torch.testing.assert_close((losses[-2.0] + losses[2.0]) / 2, losses[0.0] + between, rtol=2e-4, atol=1e-5)


def test_the_base_is_asked_once_for_each_prompt_and_the_network_at_its_strength() -> None:
    data = batch(1.0, denoised=1)
    same = replace(data.contrast, neutral="unconditional") if data.contrast else None
    _, toy = taken(replace(data, contrast=same), guidance=1.0)
    assert [prompt for prompt, _ in toy.asked[::2]] == ["target", "positive", "unconditional", "target"]
    assert toy.strength == 1.0


def test_the_weight_of_a_pair_is_one_of_its_loss() -> None:
    data = batch(1.0)
    once, thrice = (taken(replace(data, weights=torch.full((2,), w)))[0] for w in (1.0, 3.0))
    torch.testing.assert_close(thrice.loss, 3 * once.loss)
    assert torch.equal(thrice.per_sample, once.per_sample)


def test_times_are_evenly_apart_from_pure_noise_on() -> None:
    assert denoising_times(SCHEDULE, 4).tolist() == [999, 749, 499, 249]
    assert denoising_times(NoiseSchedule(1000), 4).tolist() == [1000, 750, 500, 250]
