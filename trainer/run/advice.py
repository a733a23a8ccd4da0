"""What to change in a config when memory runs out or steps become slow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.config.schema.whole import BaseConfig
from trainer.errors import RunError

LESS_AT_ONCE = "a lower resolution, or fewer other programs on the device"  # for what knows no batch


@contextmanager
def shortage_told(doing: str, advice: str, device: str = "the device") -> Iterator[None]:
    """Raises RunError in the place of torch.OutOfMemoryError. doing: when it happened, in words ("in a first step")."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(f"the memory of {device} ran out {doing}. What saves most: {advice}.") from error


def memory_advice(config: BaseConfig) -> str:
    """What to change when the device's memory ran out: the three settings that save most in this run."""
    training = config.training
    tables = [*config.datasets, config.general]
    batch = max([d.batch_size for d in tables] + [pair.batch_size for pair in config.slider.pairs])
    candidates = [
        (training.gradient_checkpointing not in ("full", "auto"), "training.gradient_checkpointing = true"),
        (training.precision == "fp32", "training.precision = 'bf16'"),
        (batch > 1, "a smaller batch_size (with training.gradient_accumulation raised to match)"),
        (not config.data.cache_latents and not config.slider.asked, "data.cache_latents = true"),
        (config.text_encoder_trains, "training.text_encoder = false"),
        (training.method == "full", "training.method = 'lora'"),
        (config.optimizer.name == "adamw", "optimizer.name = 'adamw8bit'"),
        (True, "a lower resolution"),
    ]
    return ", ".join([text for helps, text in candidates if helps][:3])


def slowness_hint(config: BaseConfig, device: str) -> str:
    if sys.platform == "win32" and device.startswith("cuda"):
        return (
            "On Windows this is what happens when the GPU's memory is full and the system's memory is used instead. "
            f"What saves most: {memory_advice(config)}."
        )
    return "Does another program use the same device, or is it too hot?"
