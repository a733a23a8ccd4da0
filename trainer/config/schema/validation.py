"""[validation]: what tells whether a run learns."""

from __future__ import annotations

from trainer.config.schema.base import Every, Section, key
from trainer.config.schema.data import DatasetSettings


class ValidationSettings(Section):
    """What tells whether the run learns: the loss on images that do not train, always with the same plain noise."""

    split: float = key(
        0.0,
        "Share of the images that is held out of training to measure what was learned; 0 = none.",
        ge=0,
        lt=1,
        basic=True,
    )
    seed: int = key(
        0,
        "Seed of the choice of images and of their noise; independent of run.seed, so that runs can be compared.",
        ge=0,
        lt=2**63,
    )
    every: Every = key(
        0,
        "How often to measure: steps, or a text such as '15m' or '1 epoch'; 0 = ten times in the run.",
        unit="steps",
    )
    draws: int = key(4, "Noises and timesteps per image, one in each of as many slices of the schedule.", ge=1, le=1000)
    images: int = key(50, "At most so many held-out images are measured; 0 = all.", ge=0)
    training_images: int = key(
        16, "So many training images are measured in the same way, so that memorising shows.", ge=0
    )
    early_stop: int = key(0, "End the run after so many measurements without a new best; 0 = never.", ge=0)
    keep_best: bool = key(True, "Save the result with the lowest held-out loss as <name>-best.")
    datasets: list[DatasetSettings] = key(
        [], "Images to measure with, in place of held-out ones; written like [[datasets]]."
    )
