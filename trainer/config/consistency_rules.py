"""What [consistency] excludes: settings that would mean nothing, or something else, in its steps."""

from __future__ import annotations

from collections.abc import Iterator

from trainer import registry
from trainer.config.errors import shown
from trainer.config.schema.consistency import ConsistencySettings
from trainer.config.schema.loss import LossSettings, TimestepsSettings
from trainer.config.schema.whole import BaseConfig


def problems(config: BaseConfig) -> Iterator[str]:
    """Lines "dotted.path: what is wrong"."""
    settings = config.consistency
    if not settings.asked:
        if settings != ConsistencySettings():
            yield "consistency.target: 'off', so that [consistency] has no effect; write 'network' or 'average'."
        return
    if settings.begin > settings.end:
        yield f"consistency.begin: {settings.begin} must not be above consistency.end = {settings.end}."
    if config.slider.asked:
        yield "slider: prompts alone give no pictures to go to; remove [slider], or [consistency]."
    if config.training.method != "full":
        yield f"training.method: {shown(config.training.method)}, but [consistency] trains all weights; write 'full'."
    if config.asks_base:
        yield "preservation: the base's answers stand for noise, not for pictures; leave it out with [consistency]."
    yield from _losses(config)
    yield from _held_out(config)
    for name in config.noise.stages():
        plugin = registry.find("noise", name)
        if plugin.network or plugin.phase == "perturb":
            what = "asks for the loss of another training" if plugin.network else "changes what is not compared here"
            yield f"noise.{name}: it {what}; turn it off with [consistency]."


def _losses(config: BaseConfig) -> Iterator[str]:
    usual = LossSettings()
    for name in LossSettings.model_fields:
        if getattr(config.loss, name) != getattr(usual, name):
            yield f"loss.{name}: [consistency] has a distance and weights of its own; leave it out."
    for name in ("min", "max"):
        if getattr(config.timesteps, name) != getattr(TimestepsSettings(), name):
            yield f"timesteps.{name}: each time learns from the one below it, so that all must train; leave it out."


def _held_out(config: BaseConfig) -> Iterator[str]:
    why = "the held-out loss is that of denoising, which [consistency] does not train; look at samples instead"
    split = [f"{name}.validation_split" for name, share in _tables(config) if share]
    yield from (f"{name}: {why}." for name in (["validation.split"] if config.validation.split else []) + split)
    if config.validation.datasets:
        yield f"validation.datasets: {why}."


def _tables(config: BaseConfig) -> Iterator[tuple[str, float | None]]:
    """Every table that may hold images back, and how many."""
    yield "general", config.general.validation_split
    for d, dataset in enumerate(config.datasets):
        yield f"datasets[{d}]", dataset.validation_split
