"""What a config asks for that does not work once weights or optimizer states are split between processes."""

from __future__ import annotations

from collections.abc import Collection

from trainer.config.schema.whole import BaseConfig
from trainer.optim import other_names


def unsplittable(config: BaseConfig) -> list[str]:
    """The settings, each with what to use instead."""
    training, performance = config.training, config.performance
    small = f"training.base_precision: {training.base_precision!r}; use 'bf16'"
    wrong = {
        "training.precision: 'fp16'; use 'bf16'": training.precision == "fp16",
        small: training.base_precision in ("8bit", "4bit"),
        "training.weight_dtype: 'bf16'; use 'fp32'": training.weight_dtype != "fp32",
        "training.gradient_checkpointing: 'auto'; use 'off', 'selective' or 'full'": (
            training.gradient_checkpointing == "auto"
        ),
        "performance.channels_last: true; use false": performance.channels_last,
        "performance.compile: true; use false": performance.compile,
        "slider: its steps ask the base; train in one process": config.slider.asked,
        "embeddings.words: leave it out": bool(config.embeddings.words),
        "consistency: its steps ask the network twice; keep weights and states whole": config.consistency.asked,
        "preservation and prior_prediction, which ask the base: leave them out": config.asks_base,
    }
    return [text for text in wrong if wrong[text]]


def unfit_optimizer(config: BaseConfig, accepted: Collection[str]) -> list[str]:
    """A line if the optimizer is none of those."""
    name = other_names.plain(config.optimizer.name)
    if (other_names.KNOWN.get(name, other_names.Known()).ours or name) in accepted:
        return []
    return [f"optimizer.name: {config.optimizer.name!r}; use one of {', '.join(accepted)}"]
