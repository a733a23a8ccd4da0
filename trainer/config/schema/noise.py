"""[noise]: a key for each noise stage that is installed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, create_model

from trainer import registry
from trainer.config.schema.base import Section, extra


class NoiseSettings(Section):
    """One key per noise plugin; see `Config`, where the plugins' settings are added."""

    def stages(self) -> dict[str, BaseModel]:
        """The settings of every stage that is on, by plugin name."""
        found = {name: getattr(self, name, None) for name in registry.names("noise")}
        return {n: s for n, s in found.items() if s is not None and registry.find("noise", n).active(s)}


def installed_noise() -> type[NoiseSettings]:
    """The section with one optional field per plugin; `oversampling = 64` stands for `[noise.oversampling] k = 64`."""
    fields: dict[str, Any] = {}
    for name in registry.names("noise"):
        plugin = registry.find("noise", name)

        def from_headline(value: Any, headline: str = plugin.headline) -> Any:
            return value if value is None or isinstance(value, (dict, BaseModel)) else {headline: value}

        described = plugin.Settings.model_fields[plugin.headline]
        fields[name] = (
            Annotated[plugin.Settings | None, BeforeValidator(from_headline)],
            Field(None, description=(plugin.__doc__ or "").strip().split("\n")[0], json_schema_extra=extra(described)),
        )
    return create_model("Noise", __base__=NoiseSettings, **fields)
