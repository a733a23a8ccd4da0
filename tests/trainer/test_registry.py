"""Plugins keep to their interfaces: what is missing or misspelt is told when a plugin is found."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.noise._stage import Stage
from plugins.noise.offset import Offset
from trainer import registry
from trainer.protocols import NoiseStage


@pytest.mark.parametrize("kind", registry.INTERFACES)
def test_every_plugin_keeps_to_its_interface(kind: str) -> None:
    assert registry.names(kind)
    for name in registry.names(kind):
        assert registry.faults(registry.find(kind, name), registry.INTERFACES[kind]) == []


def test_a_misspelt_attribute_is_told() -> None:
    class Remarks(Offset):
        @classmethod
        def remarks(cls, settings: Any, batch_size: int, accumulation: int) -> str | None:
            return "never said"

    assert registry.faults(Remarks, NoiseStage) == ["nothing reads Remarks.remarks. Did you mean 'remark'?"]


def test_a_missing_attribute_is_told() -> None:
    class Unnamed(Stage):
        Settings = Offset.Settings
        phase = "shape"

    assert registry.faults(Unnamed, NoiseStage) == [
        "Unnamed has no 'example', which every plugin of its kind has",
        "Unnamed has no 'headline', which every plugin of its kind has",
    ]
