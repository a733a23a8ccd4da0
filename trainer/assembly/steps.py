"""The step of a run: from a batch to its loss, by images or by prompts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from trainer.adapters import injection
from trainer.assembly import consistency, preservation
from trainer.assembly.learner import Learner
from trainer.assembly.material import Material
from trainer.assembly.model import objective_of
from trainer.assembly.noise import timesteps_of
from trainer.config.schema.whole import BaseConfig
from trainer.training.contrast import ContrastStep
from trainer.training.losses import Loss
from trainer.training.network import Base
from trainer.training.noise import NoiseChain
from trainer.training.step import Step, TrainingStep

Begun = Callable[[Learner, NoiseChain], Step]


def begun(config: BaseConfig, material: Material) -> Begun:
    """Made before a checkpoint is read, or anything is wrapped or compiled: it may need the base as it is now. Raises
    UserError."""
    if config.consistency.asked:
        return partial(consistency.step_of, config, material)
    return _of_prompts(config, material) if config.slider.asked else _of_images(config, material)


def _of_images(config: BaseConfig, material: Material) -> Begun:
    family, keeping = material.family, preservation.begun(config, material)

    def made(learner: Learner, noise: NoiseChain) -> Step:
        return TrainingStep(
            predict=learner.network,
            encode_images=family.encode_images,
            objective=objective_of(config, family),
            noise=noise,
            timesteps=timesteps_of(config, family.schedule),
            loss=Loss(**config.loss.model_dump()),
            preservation=None if keeping is None else keeping(learner.network),
        )

    return made


def _of_prompts(config: BaseConfig, material: Material) -> Begun:
    family, slider = material.family, config.slider
    off, scaled = injection.Off(family), injection.Scaled(family)

    def made(learner: Learner, noise: NoiseChain) -> Step:
        return ContrastStep(
            network=learner.network,
            base=Base(learner.network, off),
            scaled=scaled,
            objective=objective_of(config, family),
            noise=noise,
            loss=Loss(**config.loss.model_dump()),
            steps=slider.denoising_steps,
            guidance=slider.denoising_guidance,
        )

    return made
