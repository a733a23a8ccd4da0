"""What a run that learns from prompts alone trains on: its pairs, their batches, and what is told of them."""

from __future__ import annotations

from accelerate import Accelerator

from trainer.assembly.encoding import texts_of
from trainer.assembly.noise import timesteps_of
from trainer.config.schema.whole import BaseConfig
from trainer.data.order.prompts import PromptPlan, PromptSource, prompts_of, refuse_sizes
from trainer.device.placement import Placement
from trainer.errors import UserError
from trainer.journal.console import Console
from trainer.protocols import Family


def plan_of(config: BaseConfig, family: Family) -> PromptPlan:
    """Raises UserError for a base that cannot be asked, and for sizes that it does not take."""
    pairs = config.slider.pairs
    if not family.reads_captions:
        raise UserError("slider: this base reads no prompts; there is nothing to ask it.")
    if family.fills:
        raise UserError("slider: an inpainting model is shown pictures, and here are none; name the base it came from.")
    refuse_sizes(pairs, family.size_multiple)
    return PromptPlan(
        pairs,
        config.run.seed,
        config.slider.denoising_steps,
        timesteps_of(config, family.schedule),
        family.schedule,
    )


def source_of(config: BaseConfig, console: Console, accelerator: Accelerator, placement: Placement) -> PromptSource:
    """With every prompt encoded. Raises UserError."""
    family = placement.family
    plan = plan_of(config, family)
    for line in lines(config):
        console.say(line)
    texts = texts_of(config, console, accelerator, placement, prompts_of(plan.pairs))
    return PromptSource(plan, config.run.seed, texts, family.latent_factor, family.latent_channels)


def lines(config: BaseConfig) -> list[str]:
    """What is taught and what a step asks, for a person."""
    pairs, slider = config.slider.pairs, config.slider
    return [
        *(f"slider: {pair.title}" for pair in pairs),
        f"slider: a step begins pictures in up to {slider.denoising_steps - 1} passes, on the average "
        f"{slider.denoising_steps / 2:g}{' of twice the size' if slider.together == 2 else ''}, and asks the base "
        f"{slider.asks:.3g} times",
    ]
