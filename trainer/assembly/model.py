"""The network of a run: its base, what of it trains, what it predicts, what is saved of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from trainer import registry
from trainer.adapters import injection
from trainer.adapters.quantise import Bits, quantise
from trainer.adapters.warm_start import WarmStart
from trainer.assembly import embeddings
from trainer.assembly.headers import not_trained
from trainer.assembly.readiness import missing_base
from trainer.batch import EMBEDDINGS, AdapterWeights
from trainer.config.schema.whole import BaseConfig
from trainer.data.sources.classes import class_names
from trainer.device.placement import VAE
from trainer.errors import UserError
from trainer.optim import parameters
from trainer.optim.parameters import Group
from trainer.protocols import Family, Objective
from trainer.run.facts import Taught, metadata_of, model_metadata_of
from trainer.run.results import DTYPES, FullResult, LoraResult, Result
from trainer.training.pace import Pace

CONSISTENCY = "consistency"  # the sampler of what a consistency training makes
BITS: dict[str, Bits] = {"8bit": 8, "4bit": 4}


def open_to_train(config: BaseConfig) -> Family:
    """The base in the precision that its run will hold it in: a rounding later would give the same bits, and need the
    memory of both."""
    small = config.training.base_precision in BITS  # rounds what the file says
    return open_family(config, dtype=None if small and not config.lora.init_from else _held(config))


def _held(config: BaseConfig) -> torch.dtype:
    training = config.training
    if config.lora.init_from:
        return torch.float32  # what does not train of that file is added to the base before it is rounded
    return DTYPES[training.precision if training.method == "lora" else training.weight_dtype]


def open_family(config: BaseConfig, *, outline: bool = False, dtype: torch.dtype | None = torch.float32) -> Family:
    """Loads the base by the family that was asked for, or the one that recognises it; an `outline` has no weights."""
    if missing := missing_base(config.model.base):
        raise UserError(missing)
    torch.manual_seed(config.run.seed)  # random weights (model.init) are drawn from torch's global stream
    try:
        family = _made(config, outline) if config.model.network else _loaded(config, outline, dtype)
        family.vae_dtype = DTYPES[config.model.vae_precision]
        _refuse_resting_new_parts(config, family)
        if config.text_encoder_trains and not family.text_parts:
            raise UserError("training.text_encoder: true, but this model has no text encoder; leave it out.")
        if config.model.zero_terminal_snr != "auto":
            family.use_zero_terminal_snr(config.model.zero_terminal_snr == "on")
        return family
    except UserError as error:
        own = ("model.", "training.")
        raise UserError(p if p.startswith(own) else f"model.base: {p}" for p in error.problems) from error


def _made(config: BaseConfig, outline: bool) -> Family:
    model = config.model
    family: type[Family] = registry.find("models", model.family)
    return family.create(model.network, class_names(model.classes), prediction=model.prediction, outline=outline)


def _loaded(config: BaseConfig, outline: bool, dtype: torch.dtype | None) -> Family:
    model = config.model
    return _family_class(config).load(
        model.base,
        prediction=model.prediction,
        init="outline" if outline else model.init,
        tokenizer=model.tokenizer,
        vae=model.vae,
        text_encoder=model.text_encoder,
        clip_skip=model.clip_skip,
        max_tokens=model.max_tokens,
        weighted_captions=model.weighted_captions,
        dtype=dtype,
    )


def _refuse_resting_new_parts(config: BaseConfig, family: Family) -> None:
    """Raises UserError for new parts (model.init) that the family has not got, or that would stay random."""
    init = "random" if config.model.network else config.model.init
    new = {init} if isinstance(init, str) else set(init)
    new = set(family.parts) if "random" in new else new - {"pretrained"}
    problems = [
        f"model.init: there is no part {part!r}; expected 'pretrained', 'random', or some of {', '.join(family.parts)}."
        for part in sorted(new - set(family.parts))
    ]
    whole = trained_parts(config, family) if config.training.method == "full" else set()
    problems += [
        f"model.init: {part!r} would start from random weights and stay so: it does not train. Leave it out, or train "
        "it (training.method = 'full', training.unet, training.text_encoder)."
        for part in family.parts
        if part in new - whole
    ]
    if problems:
        raise UserError(problems)


def trained_parts(config: BaseConfig, family: Family) -> set[str]:
    """Those that train as a whole or by adapters; new words are beside them."""
    text = set(family.text_parts)
    others = set(family.parts) - text - {EMBEDDINGS}
    return (others if config.training.unet else set()) | (text if config.text_encoder_trains else set())


def tokenizer_of(config: BaseConfig) -> Any:
    """The tokenizer of the base with the run's new words, without weights. Raises UserError."""
    return _family_class(config).tokenizer_of(config.model.base, config.model.tokenizer, embeddings.words_of(config))


def token_room_of(config: BaseConfig, tokenizer: Any) -> int:
    """How many of a caption's tokens, as this tokenizer counts, the base reads."""
    return _family_class(config).token_room(tokenizer, config.model.max_tokens)


def _family_class(config: BaseConfig) -> type[Family]:
    if config.model.family != "auto":
        return registry.find("models", config.model.family)
    for name in registry.names("models"):
        if registry.find("models", name).recognises(config.model.base):
            return registry.find("models", name)
    families = registry.names("models")
    told = [what for name in families if (what := registry.find("models", name).describes(config.model.base))]
    raise UserError(not_trained(config.model.base, told[0] if told else ""))


def objective_of(config: BaseConfig, family: Family) -> Objective:
    name = family.prediction if config.model.prediction == "auto" else config.model.prediction
    return registry.find("objectives", name)(family.schedule)


def unfit(config: BaseConfig, family: Family) -> list[str]:
    """Why the way in which a config trains is not for this family."""
    settings = config.consistency
    if not settings.asked:
        return []
    objective = objective_of(config, family)
    if objective.predicts_noise:
        return [
            "consistency: a network that predicts the noise says next to nothing of the picture where there is only "
            "noise; set model.prediction to 'flow' or 'v'."
        ]
    if CONSISTENCY not in family.samplers:
        return [f"consistency: models of {family.name!r} have no sampler that draws what it makes; leave it out."]
    most = objective.schedule.steps - 1
    if not objective.schedule.continuous and settings.end > most:
        return [f"consistency.end: found {settings.end}, but there are {most + 1} timesteps; write at most {most}."]
    return []


def resting_parts(config: BaseConfig, family: Family) -> list[str]:
    """What steps do not need: those whose output is cached."""
    if config.slider.asked:  # prompts are encoded once, and there are no images
        return [*family.text_parts, VAE]
    text = family.text_parts if config.data.cache_text and not config.text_states_change else ()
    return [*text, *([VAE] if config.data.cache_latents else [])]


def hold_small(config: BaseConfig, family: Family, device: torch.device) -> None:
    """Keeps the frozen base in 8 or 4 bits where the config asks for it, but for parts that rest: they save more by
    leaving the device, and move as they are."""
    if config.training.base_precision not in BITS:
        return
    resting = resting_parts(config, family)
    for name, part in family.parts.items():
        if name not in resting:
            quantise(part, BITS[config.training.base_precision], device, DTYPES[config.training.precision])


def rates_of_parts(config: BaseConfig, family: Family) -> dict[str, float]:
    """The learning rate of each part that trains as a whole or by adapters."""
    learning, rate = trained_parts(config, family), config.optimizer.lr
    rates = {name: rate for name in family.parts if name in learning and name not in family.text_parts}
    return rates | {name: config.text_encoder_lr for name in family.text_parts if name in learning}


def prepare_parts(config: BaseConfig, family: Family, start: WarmStart | None = None) -> dict[str, float]:
    """Injects adapters or unfreezes weights; returns the learning rate of each part that trains. start: what the
    adapters go on from."""
    training, rates = config.training, rates_of_parts(config, family)
    if training.method == "lora":
        settings = config.lora
        injection.inject(
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
            layers=settings.layers,
            exclude=settings.exclude,
            include=settings.include,
            by_root=settings.rslora,
            args=settings.args,
            start=settings.start,
            seed=config.run.seed,
            like=start.trained if start else None,
        )
    else:
        for name in rates:
            parameters.unfreeze(family.parts[name], DTYPES[training.weight_dtype])
    for parameter in family.unused_parameters():
        parameter.requires_grad_(False)
    if EMBEDDINGS in family.parts:
        family.parts[EMBEDDINGS].requires_grad_(True)
        rates[EMBEDDINGS] = embeddings.rate(config)
    return rates


def _refuse_lost_parts(config: BaseConfig, family: Family) -> None:
    """Raises UserError for parts that train and that the one file to be written does not hold."""
    if config.save.full != "folder" and not family.file_parts:
        raise UserError(
            f"save.full: found {config.save.full!r}, but no program reads models of {family.name!r} as one file; write "
            "'folder'."
        )
    lost = sorted(trained_parts(config, family) - set(family.file_parts))
    if lost and config.save.full == "file":
        raise UserError(
            f"save.full: found 'file', but the one file of {family.name!r} does not hold {', '.join(lost)}, which "
            "trains here; write 'folder'."
        )


def learning_steps(config: BaseConfig, family: Family, group: Group, pace: Pace) -> range:
    """The steps, counted from 0, in which a group of parameters learns."""
    until, steps = config.training.text_encoder_until, group.steps(pace.steps)
    if not until or group.part not in family.text_parts:
        return steps
    last = round(until * pace.steps) if until < 1 else int(until)
    return range(steps.start, min(steps.stop, last))


def result_of(
    config: BaseConfig,
    family: Family,
    taught: Taught,
    pace: Pace,
    processes: int,
    waiting: Mapping[str, AdapterWeights],
) -> Result:
    """waiting: adapters that do not train and are saved beside those that do."""
    dtype = DTYPES[config.save.dtype]
    if config.training.method == "full":
        _refuse_lost_parts(config, family)
        facts = model_metadata_of(config, family, taught)
        return FullResult(family, dtype, config.save.full, facts)
    facts_after = metadata_of(config, family, taught, pace, processes)
    return LoraResult(family, dtype, facts_after, waiting, bundle=config.embeddings.bundle)
