"""Batches without images: what they hold is a function of the seed and the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from trainer.batch import NoiseSchedule, TextStates
from trainer.config.schema.slider import PromptPair, SliderTarget
from trainer.data.cache.memory import TextCache
from trainer.data.order.prompts import PromptPlan, PromptSource, prompts_of, refuse_sizes
from trainer.errors import UserError
from trainer.training.timesteps import TimestepSampler

SCHEDULE = NoiseSchedule.discrete(torch.linspace(0.999, 0.005, 1000))


def plan(*pairs: PromptPair, seed: int = 1, steps: int = 10, **timesteps: Any) -> PromptPlan:
    return PromptPlan(pairs, seed, steps, TimestepSampler(**timesteps), SCHEDULE)


def encoded(prompts: Sequence[str]) -> TextStates:
    return TextStates({"hidden": torch.tensor([[float(len(prompt))] for prompt in prompts])})


def source(made: PromptPlan) -> PromptSource:
    texts = TextCache(encoded)
    texts.prepare(prompts_of(made.pairs))
    return PromptSource(made, 1, texts, cell=8, channels=4)


PAIRS = (
    PromptPair(target="a cat", guidance_scale=2.0, batch_size=3, resolution=(64, 128), weight=0.5),
    PromptPair(target="a dog", positive="a big dog", neutral="a", action="enhance", multiplier=-1.0, resolution=64),
)


def test_a_batch_holds_what_its_pair_says() -> None:
    made = plan(*PAIRS)
    batches = {found.captions[0]: found for index in (0, 1) if (found := source(made).batch(index))}
    cat, dog = batches["a cat"], batches["a dog"]
    assert cat.latents is not None and cat.latents.shape == (3, 4, 16, 8) and not cat.latents.any()
    assert cat.weights.tolist() == [0.5] * 3
    assert cat.geometry.target.tolist() == [[128, 64]] * 3 == cat.geometry.original.tolist()
    assert cat.contrast is not None and dog.contrast is not None
    assert (cat.contrast.positive, cat.contrast.unconditional, cat.contrast.neutral) == ("a cat", "", "")
    assert (cat.contrast.guidance, dog.contrast.guidance, dog.contrast.strength) == (-2.0, 1.0, -1.0)
    assert {p: s["hidden"].tolist() for p, s in dog.contrast.states.items()} == {
        "a big dog": [[9]],
        "": [[0]],
        "a": [[1]],
    }
    assert cat.text is not None and cat.text["hidden"].tolist() == [[5.0]] * 3


def test_each_epoch_has_every_pair_once_in_an_order_of_its_own() -> None:
    pairs = [PromptPair(target=str(i)) for i in range(5)]
    made = plan(*pairs)
    epochs = [[made.begun(e * 5 + i).pair for i in range(5)] for e in range(4)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs) and len(set(map(tuple, epochs))) > 1
    assert [made.begun(7), made.begun(3)] == [plan(*pairs).begun(7), plan(*pairs).begun(3)]
    assert [plan(*pairs, seed=2).begun(i) for i in range(9)] != [made.begun(i) for i in range(9)]


def test_uniform_timesteps_denoise_each_number_of_steps_as_often() -> None:
    made = plan(PAIRS[0], steps=5)
    counts = Counter(made.begun(i).denoised for i in range(2000))
    assert sorted(counts) == [1, 2, 3, 4]
    assert all(abs(count - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for count in counts.values())


@pytest.mark.parametrize(("low", "high", "expected"), [(500, 1000, {1, 2}), (0, 500, {3, 4})])
def test_the_range_of_timesteps_is_kept(low: int, high: int, expected: set[int]) -> None:
    """To a step of the denoising."""
    made = plan(PAIRS[0], steps=5, low=low, high=high)
    assert {made.begun(i).denoised for i in range(200)} == expected


def test_sizes_and_crops_are_drawn_where_asked() -> None:
    pair = PromptPair(target="a", resolution=256, dynamic_resolution=True, dynamic_crops=True)
    made = plan(pair)
    sizes = {made.begun(i).size for i in range(200)}
    assert sizes == {(w, h) for w in (128, 192, 256) for h in (128, 192, 256)}
    assert made.shapes() == {(1, size) for size in sizes}
    for index in range(20):
        told = source(made).batch(index).geometry
        (original,), (crop,), (target,) = told.original.tolist(), told.crop.tolist(), told.target.tolist()
        assert all(t <= o <= 3 * t and 0 <= c <= o - t for o, c, t in zip(original, crop, target, strict=True))


def test_the_largest_batch_is_the_one_with_the_longest_denoising() -> None:
    made = plan(*PAIRS)
    assert made.describe(made.largest()) == "3 x 64x128, 9 steps denoised"


def test_a_slider_is_two_pairs_for_each_neutral_prompt() -> None:
    found = SliderTarget(target_class="x", positive="big", negative="small", neutrals=["", "photo"], weight=2.0).pairs
    assert [(p.concept, p.unconditional, p.guidance, p.multiplier, p.start) for p in found] == [
        ("big", "small", 1.0, 1.0, ""),
        ("small", "big", 1.0, -1.0, ""),
        ("big", "small", 1.0, 1.0, "photo"),
        ("small", "big", 1.0, -1.0, "photo"),
    ]
    assert {p.weight for p in found} == {2.0} and {p.target for p in found} == {"x"}
    one = SliderTarget(positive="big").pairs
    assert [(p.concept, p.unconditional, p.guidance, p.multiplier) for p in one] == [
        ("big", "", 1.0, 1.0),
        ("big", "", -1.0, -1.0),
    ]


def test_sizes_that_the_base_does_not_take_are_named() -> None:
    with pytest.raises(UserError, match=r"slider: resolution 68x64: .* divide by 8, such as 64x64"):
        refuse_sizes([PromptPair(target="a", resolution=(68, 64))], 8)
