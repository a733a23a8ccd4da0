"""The values of a stage's headline setting that are compared, each together with the run's other settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from trainer.config.schema.base import changed
from trainer.protocols import NoiseStage


def swept(plugin: type[NoiseStage], settings: BaseModel) -> Iterator[tuple[Any, BaseModel]]:
    """(value, settings with it), for those that go with the other settings and are not off."""
    for value in plugin.sweep:
        try:
            other = changed(settings, **{plugin.headline: value})
        except ValidationError:
            continue
        if plugin.active(other):
            yield value, other
