"""What is kept of the base: its own answers are targets, beside or instead of what the images show."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.batch import Batch, TextStates, sent
from trainer.training.losses import Loss, Noisiness
from trainer.training.network import Base, Inputs, Predict


@dataclass(frozen=True)
class Losses:
    """(B,) each, without weights."""

    own: Tensor  # of the image, or of the base's answer about it where the sample is `Batch.of_base`
    kept: Tensor  # of what is held to the base besides


@dataclass(frozen=True)
class Preservation:
    """Three ways to hold the network to its base, over the same question to the base.

    Samples that are `Batch.of_base` learn the base's answer instead of their image (OneTrainer's prior prediction,
    sd-scripts' diff_output_preservation). With `words` the same noisy latents are asked about once more under a caption
    that names the class instead of the subject (ai-toolkit's differential output preservation). With `outside` the base
    answers for what a loss mask leaves out (OneTrainer's masked prior preservation).
    """

    base: Base
    network: Predict
    loss: Loss
    words: Mapping[str, str] = field(default_factory=dict)  # subject -> class
    states: Callable[[Sequence[str]], TextStates | None] = lambda _captions: None  # cached ones, of any captions
    blank: bool = False  # the noisy latents are asked about once more without a caption (ai-toolkit's blank prompt)
    weight: float = 1.0  # of the answers about the class and of those without a caption
    outside: float = 0.0  # weight of what lies outside of masks
    share: float = 1.0  # of the steps

    @property
    def adds(self) -> bool:
        """Whether anything is held to the base besides the samples' own answers."""
        return bool(self.words or self.blank or self.outside)

    def __call__(self, inputs: Inputs, answer: Tensor, own: Tensor, batch: Batch, at: Noisiness, step: int) -> Losses:
        """answer: the network's to `inputs`, (B, C, h, w), whose losses against the images' targets are `own`, (B,)."""
        due = is_due(step, self.share)
        masked = due and self.outside > 0 and batch.mask is not None
        kept = torch.zeros_like(own)
        if masked or batch.of_base is not None:
            target = self.base(inputs)
            if batch.of_base is not None:
                own = torch.where(batch.of_base, self.loss.per_sample(answer, target, at, batch.mask), own)
            if masked and batch.mask is not None:
                kept = kept + self.outside * self.loss.per_sample(answer, target, at, 1 - batch.mask)
        if due and self.words:
            kept = kept + self.weight * self._about_the_class(inputs, batch, at)
        if due and self.blank:
            kept = kept + self.weight * self._from_the_base(inputs, [""] * len(batch), at)
        return Losses(own, kept)

    def _about_the_class(self, inputs: Inputs, batch: Batch, at: Noisiness) -> Tensor:
        """(B,): how far the network is from the base where captions name the class; 0 for those that name no subject.

        All of the batch is asked about, whatever the captions: processes and compiled blocks see the same sizes.
        """
        captions = [replaced(caption, self.words) for caption in batch.captions]
        concerned = torch.tensor([a != b for a, b in zip(captions, batch.captions, strict=True)])
        return self._from_the_base(inputs, captions, at) * sent(concerned, inputs.noisy.device)

    def _from_the_base(self, inputs: Inputs, captions: Sequence[str], at: Noisiness) -> Tensor:
        """(B,): how far the network's answer under these captions is from the base's."""
        text = self.states(captions)
        other = inputs._replace(captions=captions, text=None if text is None else text.to(inputs.noisy.device))
        target = self.base(other)
        return self.loss.per_sample(self.network(*other), target, at)


def is_due(step: int, share: float) -> bool:
    """Whether the step, counted from 0, is one of a share of all steps that lie evenly; the first one is."""
    return math.ceil(round((step + 1) * share, 9)) > math.ceil(round(step * share, 9))


def replaced(caption: str, words: Mapping[str, str]) -> str:
    """The caption with the class in the place of each subject, longer ones first; parts of other words stay."""
    if not words:
        return caption
    subjects = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{subjects})(?!\w)", lambda found: words[found[0]], caption)
