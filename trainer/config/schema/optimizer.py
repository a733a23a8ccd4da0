"""[optimizer], [schedule] and [ema]: how the weights move."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from trainer.config.schema.base import FloatPair, Section, key


class OptimizerSettings(Section):
    name: str = key(
        "adamw",
        "adamw, adamw8bit, prodigy, lion, adafactor, ...: a class of torch.optim, bitsandbytes or pytorch-optimizer, "
        "or module.Class. Names that sd-scripts and OneTrainer know do what they do there.",
    )
    lr: float = key(1e-4, "Learning rate; 1 for prodigy.", gt=0, le=100, basic=True)
    text_encoder_lr: float | None = key(
        None,
        "Learning rate of the text encoder, where it trains; not set = the same as lr, 0 = it does not train.",
        ge=0,
        le=100,
    )
    rates: dict[str, Annotated[float, Field(ge=0, le=100)]] = key(
        {},
        'Learning rates of blocks by the beginning of their names, e.g. {"unet.down_blocks" = 5e-5}; 0 = frozen.',
    )
    windows: dict[str, FloatPair] = key(
        {},
        'When blocks learn, by the beginning of their names: from and until a step, e.g. {"text_encoder" = [0, 500], '
        '"unet.mid_block" = [0.2, 0]}; below 1 a share of the run, until 0 = to the end. Else they stay as they are.',
    )
    lora_plus: float = key(1.0, "LoRA+: the up matrices learn this many times as fast.", gt=0, le=1000)
    args: dict[str, Any] = key({}, "Arguments of the optimizer's constructor, by its own names or sd-scripts'.")


class ScheduleSettings(Section):
    name: Literal[
        "constant",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
        "rex",
        "warmup_stable_decay",
        "piecewise_constant",
    ] = key("constant", "How the learning rate moves after the warm-up.")
    warmup: float = key(
        0,
        "Steps of rising learning rate; below 1 a share of all steps.",
        ge=0,
        unit="steps",
    )
    cycles: float = key(1, "cosine_with_restarts: how often it falls.", ge=1, le=1000)
    power: float = key(1, "polynomial: the exponent.", gt=0)
    minimum: float = key(0.0, "Share of the learning rate that is never undercut.", ge=0, le=1)
    pieces: list[FloatPair] = key(
        [],
        "piecewise_constant: until which share of the run each factor of the learning rate holds, e.g. "
        "[[0.5, 1.0], [1.0, 0.1]].",
    )
    decay: float = key(0.2, "warmup_stable_decay: share of the run in which it falls.", gt=0, le=1)


class EmaSettings(Section):
    decay: float = key(
        0.0,
        "An exponential moving average of the trained weights is saved, sampled and measured instead of them; 0 = off, "
        "0.999 is usual.",
        ge=0,
        lt=1,
    )
    every: int = key(1, "Steps between updates of the average.", ge=1, unit="steps")
    device: Literal["auto", "cpu"] = key("auto", "cpu: the average lies in the host's memory.")
