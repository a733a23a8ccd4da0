"""What is held to the base, against formulas that are written out here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from trainer import registry
from trainer.batch import Batch, Geometry, NoiseSchedule
from trainer.training.losses import Loss
from trainer.training.network import Base
from trainer.training.noise import NoiseChain, Streams
from trainer.training.preservation import Preservation, is_due, replaced
from trainer.training.step import StepResult, TrainingStep
from trainer.training.timesteps import TimestepSampler

ALPHAS = torch.linspace(0.999, 0.005, 1000)
STREAMS = Streams(seed=7, step=0, micro_batch=0, rank=0, device=torch.device("cpu"))


class Toy:
    """A network that answers by the length of its captions, and says something else while it is its base."""

    def __init__(self) -> None:
        self.is_base = False
        self.asked: list[tuple[str, ...]] = []

    def __call__(
        self, noisy: Tensor, timesteps: Tensor, text: None, captions: list[str], geometry: Geometry, shown: None
    ) -> Tensor:
        assert torch.is_grad_enabled() != self.is_base
        self.asked.append(tuple(captions))
        lengths = torch.tensor([float(len(c)) for c in captions]).view(-1, 1, 1, 1)
        return 0.1 * noisy + lengths * (0.5 if self.is_base else 1.0)

    @contextmanager
    def as_it_was(self) -> Iterator[None]:
        self.is_base = True
        try:
            yield
        finally:
            self.is_base = False


def batch(*captions: str, of_base: Tensor | None = None, mask: Tensor | None = None) -> Batch:
    size, pair = len(captions), torch.zeros(len(captions), 2, dtype=torch.long)
    latents = torch.randn(size, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    names = tuple(f"{i}.png" for i in range(size))
    return Batch(
        names, captions, Geometry(pair, pair, pair), torch.ones(size), latents, images=names, of_base=of_base, mask=mask
    )


def taken(data: Batch, streams: Streams = STREAMS, **settings: object) -> tuple[StepResult, Toy]:
    """A step with these settings of `Preservation`; without any there is none."""
    toy, loss = Toy(), Loss()
    kept = Preservation(Base(toy, toy.as_it_was), toy, loss, **settings) if settings else None  # type: ignore[arg-type]
    objective = registry.find("objectives", "epsilon")(NoiseSchedule.discrete(ALPHAS))
    step = TrainingStep(toy, lambda pixels: pixels, objective, NoiseChain({}), TimestepSampler(), loss, kept)
    return step(data, streams), toy


def test_samples_of_the_base_learn_its_answer_and_others_their_image() -> None:
    data = batch("ab", "abcd")
    plain, _ = taken(data)
    mixed, _ = taken(replace(data, of_base=torch.tensor([True, False])), weight=1.0)
    assert mixed.per_sample[0] == pytest.approx(1.0)  # answers 2 and 1: the noise has no part in it
    assert mixed.per_sample[1] == plain.per_sample[1]
    assert float(mixed.loss) == pytest.approx(float(mixed.per_sample.mean()))


def test_the_class_word_is_asked_for_the_same_noisy_latents() -> None:
    words = {"ohwx": "man"}
    data = batch("ohwx", "a b", "an ohwxy, ohwx")
    plain, _ = taken(data)
    found, toy = taken(data, words=words, weight=0.5)
    assert toy.asked == [data.captions] + 2 * [("man", "a b", "an ohwxy, man")]
    expected = torch.tensor([1.5, 0.0, 6.5]) ** 2  # half of the captions' lengths; the second names no subject
    assert float(found.loss) == pytest.approx(float(plain.loss + 0.5 * expected.mean()))
    assert torch.equal(found.per_sample, plain.per_sample)  # what is logged stays the image's loss
    assert found.kept is not None and torch.allclose(found.kept, 0.5 * expected) and plain.kept is None


def test_the_blank_prompt_is_asked_for_every_sample() -> None:
    data = batch("ohwx", "a b")
    plain, _ = taken(data)
    found, toy = taken(data, blank=True, weight=0.5, words={"ohwx": "man"})
    assert toy.asked == [data.captions, ("man", "a b"), ("man", "a b"), ("", ""), ("", "")]
    class_word = torch.tensor([1.5, 0.0]) ** 2  # without a caption base and network say the same here
    assert float(found.loss) == pytest.approx(float(plain.loss + 0.5 * class_word.mean()))


def test_outside_of_masks_the_base_answers() -> None:
    """OneTrainer's masked prior preservation: each cell counts for the image by its mask, for the base by the rest."""
    mask = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    data = batch("ab", "abcd", mask=mask)
    plain, _ = taken(data)
    found, _ = taken(data, outside=2.0)
    apart = torch.tensor([1.0, 2.0]).view(-1, 1, 1, 1) ** 2
    assert float(found.loss) == pytest.approx(float(plain.loss + 2.0 * (apart * (1 - mask)).mean()), rel=1e-5)
    without, toy = taken(replace(data, mask=None), outside=2.0)
    assert len(toy.asked) == 1 and torch.equal(without.per_sample, taken(replace(data, mask=None))[0].per_sample)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.3, 0.1, 0.75])
def test_a_share_of_the_steps_lies_evenly_and_begins_with_the_first(share: float) -> None:
    due = [is_due(step, share) for step in range(1000)]
    assert due[0] and sum(due) == round(1000 * share)
    gaps = [b - a for a, b in zip(*(lambda at: (at, at[1:]))([i for i, d in enumerate(due) if d]), strict=False)]
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


def test_steps_that_are_not_due_ask_nothing() -> None:
    data = batch("ohwx", mask=torch.zeros(1, 1, 8, 8))
    later = replace(STREAMS, step=1)
    _, toy = taken(data, later, words={"ohwx": "man"}, outside=1.0, share=0.5)
    assert len(toy.asked) == 1


def test_words_are_whole_and_the_longest_goes_first() -> None:
    words = {"ohwx": "man", "ohwx woman": "woman", "s.t": "style"}
    assert replaced("ohwx woman, ohwx, ohwxx, sat, s.t", words) == "woman, man, ohwxx, sat, style"
    assert replaced("anything", {}) == "anything"
