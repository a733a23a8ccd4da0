"""The network of a run: its base, what of it trains, what it predicts, what is saved of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from trainer import lora, parameters, registry
from trainer.config import BaseConfig
from trainer.config_io import looks_like_path
from trainer.data.dataset import Dataset
from trainer.device.placement import VAE
from trainer.device.quantise import Bits, quantise
from trainer.errors import UserError
from trainer.loop import Pace
from trainer.parameters import Group
from trainer.protocols import Family, Objective
from trainer.run.facts import metadata_of, model_metadata_of
from trainer.run.results import DTYPES, FullResult, LoraResult, Result


def open_family(config: BaseConfig, *, outline: bool = False) -> Family:
    """Loads the base by the family that was asked for, or the one that recognises it; an `outline` has no weights."""
    base = config.model.base
    if looks_like_path(base) and not Path(base).exists():
        raise UserError(
            f"model.base: there is no such base: {base}. Is the path right? It is relative to the config file."
        )
    torch.manual_seed(config.run.seed)  # random weights (model.init) are drawn from torch's global stream
    try:
        family = _family_class(config).load(
            base,
            prediction=config.model.prediction,
            init="outline" if outline else config.model.init,
            tokenizer=config.model.tokenizer,
            vae=config.model.vae,
            clip_skip=config.model.clip_skip,
            max_tokens=config.model.max_tokens,
            weighted_captions=config.model.weighted_captions,
        )
        if config.model.zero_terminal_snr != "auto":
            family.use_zero_terminal_snr(config.model.zero_terminal_snr == "on")
        return family
    except UserError as error:
        raise UserError(p if p.startswith("model.") else f"model.base: {p}" for p in error.problems) from error


def tokenizer_of(config: BaseConfig) -> Any:
    """The tokenizer of the base, without its weights. Raises UserError."""
    return _family_class(config).tokenizer_of(config.model.base, config.model.tokenizer)


def _family_class(config: BaseConfig) -> type[Family]:
    if config.model.family != "auto":
        return registry.find("models", config.model.family)
    for name in registry.names("models"):
        if registry.find("models", name).recognises(config.model.base):
            return registry.find("models", name)
    families = registry.names("models")
    told = [what for name in families if (what := registry.find("models", name).describes(config.model.base))]
    what = f"it is {told[0]}" if told else "it is none of the models that the families know"
    raise UserError(
        f"model.base: {config.model.base} cannot be trained: {what}. There are the families {', '.join(families)}; "
        "expected a checkpoint in one file, a diffusers folder (with a model_index.json) or a hub id."
    )


def objective_of(config: BaseConfig, family: Family) -> Objective:
    name = family.prediction if config.model.prediction == "auto" else config.model.prediction
    return registry.find("objectives", name)(family.alphas_cumprod)


def resting_parts(config: BaseConfig, family: Family) -> list[str]:
    """What steps do not need: those whose output is cached."""
    text = family.text_parts if config.data.cache_text and not config.training.text_encoder else ()
    return [*text, *([VAE] if config.data.cache_latents else [])]


def hold_small(config: BaseConfig, family: Family, device: torch.device) -> None:
    """Keeps the frozen base in 8 or 4 bits where the config asks for it, but for parts that rest: they save more by
    leaving the device, and move as they are."""
    bits: dict[str, Bits] = {"8bit": 8, "4bit": 4}
    if config.training.base_precision not in bits:
        return
    resting = resting_parts(config, family)
    for name, part in family.parts.items():
        if name not in resting:
            quantise(part, bits[config.training.base_precision], device, DTYPES[config.training.precision])


def prepare_parts(config: BaseConfig, family: Family) -> dict[str, float]:
    """Injects adapters or unfreezes weights; returns the learning rate of each part that trains."""
    training, rate = config.training, config.optimizer.lr
    rates = {name: rate for name in family.parts if training.unet and name not in family.text_parts}
    if training.text_encoder:
        rates |= dict.fromkeys(family.text_parts, config.optimizer.text_encoder_lr or rate)
    if training.method == "lora":
        settings = config.lora
        lora.inject(
            family,
            list(rates),
            rank=settings.rank,
            alpha=settings.alpha,
            conv_rank=settings.conv_rank,
            conv_alpha=settings.conv_alpha,
            dropout=settings.dropout,
            rank_dropout=settings.rank_dropout,
            module_dropout=settings.module_dropout,
            method=settings.method,
            ranks=settings.ranks,
            seed=config.run.seed,
        )
        if settings.init_from:
            lora.init_from(family, Path(settings.init_from))
    else:
        for name in rates:
            parameters.unfreeze(family.parts[name], DTYPES[training.weight_dtype])
    for parameter in family.unused_parameters():
        parameter.requires_grad_(False)
    return rates


def learning_steps(config: BaseConfig, family: Family, group: Group, pace: Pace) -> range:
    """The steps, counted from 0, in which a group of parameters learns."""
    until, steps = config.training.text_encoder_until, group.steps(pace.steps)
    if not until or group.part not in family.text_parts:
        return steps
    last = round(until * pace.steps) if until < 1 else int(until)
    return range(steps.start, min(steps.stop, last))


def result_of(config: BaseConfig, family: Family, dataset: Dataset, pace: Pace, processes: int) -> Result:
    dtype = DTYPES[config.save.dtype]
    if config.training.method == "full":
        facts = model_metadata_of(config, family, dataset)
        return FullResult(family, dtype, config.save.full, facts)
    return LoraResult(family, dtype, metadata_of(config, family, dataset, pace, processes))
