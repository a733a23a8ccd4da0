"""[samples]: what is drawn during training."""

from __future__ import annotations

from typing import Literal

from trainer.config.schema.base import Every, Section, key

Sampler = Literal[
    "ddim", "pndm", "lms", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a", "dpmsolver", "dpmsolver++", "dpmsingle",
    "k_lms", "k_euler", "k_euler_a", "k_dpm_2", "k_dpm_2_a", "ddpm", "dopri5", "consistency",
]  # fmt: skip


class SamplesSettings(Section):
    prompts: list[str] | str = key(
        [],
        "Prompts that are drawn during training, or a prompt file (.txt, .toml, .json). A prompt may end in kohya's "
        "flags: --n negative --w width --h height --d seed --s steps --l guidance --ss sampler; for an inpainting base "
        "--i image --m mask, whose white is filled in.",
        path="file",
    )
    negative: str = key("", "Negative prompt of all samples.")
    every: Every = key(
        0,
        "How often samples are drawn: steps, or a text such as '15m' or '1 epoch'; 0 = only at the end.",
        unit="steps",
    )
    at_start: bool = key(False, "Draw the samples before the first step too.")
    sampler: Sampler = key(
        "ddim",
        "Sampler, by kohya's names; beside them 'ddpm', and 'dopri5' for flows in pixel space, which takes as many "
        "steps as its error bound needs. Other flows have one sampler, which this key does not change. 'consistency' "
        "is for what [consistency] trained, in 1 or 2 steps.",
        models_own=True,
    )
    steps: int = key(30, "Sampling steps.", ge=1, le=1000)
    guidance: float = key(
        7.5, "Classifier-free guidance scale; where it is not set, some families take their own.", models_own=True, ge=0
    )
    width: int = key(512, "Width in pixels; where it is not set, some families take their own.", models_own=True, ge=8)
    height: int = key(512, "Height in pixels; likewise.", models_own=True, ge=8)
    seed: int = key(1, "Seed of the first prompt; each next prompt adds one.", ge=0, lt=2**63)
