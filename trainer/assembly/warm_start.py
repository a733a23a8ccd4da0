"""`lora.init_from`: what a run takes from the LoRA file that it goes on from."""

from __future__ import annotations

from pathlib import Path

from trainer.adapters import tools, warm_start
from trainer.adapters.lora_file import LoraFile
from trainer.adapters.warm_start import Wanted, WarmStart
from trainer.assembly.model import trained_parts
from trainer.config.schema.base import changed
from trainer.config.schema.whole import BaseConfig
from trainer.errors import UserError
from trainer.protocols import Family

SHAPES = ("method", "rank", "conv_rank")  # settings that the file's tensors have in them


def resolved(config: BaseConfig) -> BaseConfig:
    """With rank, alpha and kind of the file where the config does not set them. Raises UserError for settings that
    contradict it."""
    if not _is_on(config):
        return config
    lora, path = config.lora, Path(config.lora.init_from)
    told = warm_start.told(warm_start.read(path))
    problems = [
        f"lora.{name} = {getattr(lora, name)!r}: the modules of {path} have another, {told[name]!r}; leave lora.{name} "
        f"out to take the file's{', or bring the file to this rank with resize' if name != 'method' else ''}"
        for name in SHAPES
        if name in told and name in lora.model_fields_set and getattr(lora, name) != told[name]
    ]
    problems += [
        f"lora.{name}: has no effect on adapters of a file, which decides which layers have one; leave it out"
        for name in ("ranks", "layers", "exclude", "include", "rslora", "args", "start")
        if getattr(lora, name) not in ([], {}, False, "zero")
    ]
    if problems:
        raise UserError(problems)
    taken = {name: value for name, value in told.items() if name not in lora.model_fields_set}
    return changed(config, lora=changed(lora, **taken)) if taken else config


def found(config: BaseConfig, family: Family) -> WarmStart | None:
    """None without a file. Raises UserError for one that does not fit."""
    if not _is_on(config):
        return None
    path = Path(config.lora.init_from)
    file = warm_start.read(path)
    wanted = Wanted(
        [part for part in family.parts if part in trained_parts(config, family)],
        config.lora.method,
        _alphas(config, file),
        config.lora.init_untrained == "freeze",
    )
    return warm_start.begin(family, path, file, wanted)


def begun(config: BaseConfig, family: Family) -> WarmStart | None:
    """The same, once what does not train is in the base's own weights, where it acts."""
    start = found(config, family)
    if start and start.waiting:
        try:
            tools.put_into(family, start.waiting, 1.0, config.lora.init_from)
        except UserError as error:
            raise UserError(f"lora.init_from: {problem}" for problem in error.problems) from error
    return start


def _alphas(config: BaseConfig, file: LoraFile) -> tuple[float, float]:
    """By how much alpha is to be another than in the file, of linear layers and of 3x3 convolutions."""
    told = warm_start.told(file)
    linear, wide = (
        getattr(config.lora, name) / told[name] if told.get(name) else 1.0 for name in ("alpha", "conv_alpha")
    )
    return linear, wide


def _is_on(config: BaseConfig) -> bool:
    return config.training.method == "lora" and bool(config.lora.init_from)
