"""A diffusers folder with a UNet2DModel: of a pipeline, or of the network alone. Reads no weights, needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plugins.models import _diffusers_folder
from plugins.models._diffusers_folder import DiffusersFolder
from plugins.models._pixel_network import CHANNELS
from trainer.files.tensor_file import read_json

if TYPE_CHECKING:
    from torch import Tensor

NETWORK = "UNet2DModel"
_PLAIN = {"_class_name": "DDPMScheduler"}  # diffusers' usual schedule, where a network comes without one


@dataclass(frozen=True)
class PixelBase:
    path: Path
    config: Mapping[str, Any]  # of the network
    whole: bool  # a pipeline's folder, not the network's alone

    @property
    def what(self) -> str:
        kind = "with classes" if self.config.get("num_class_embeds") else "without text"
        return f"a diffusers folder of a UNet in pixel space {kind}"

    @property
    def refused(self) -> str:
        """Why it cannot be trained; "" where it can."""
        channels, out = self.config.get("in_channels", 3), self.config.get("out_channels", 3)
        if channels != out or channels not in CHANNELS:
            return f"the network takes {channels} channels and returns {out}; expected 3 and 3, or 1 and 1"
        if self.config.get("class_embed_type"):
            return f"classes of the kind {self.config['class_embed_type']!r} are not supported, only plain embeddings"
        if self.config.get("time_embedding_type", "positional") != "positional":
            return "its time embedding belongs to a schedule that is not supported (score SDE)"
        return ""

    def where(self, part: str) -> str:
        return str(self._folder(part))

    def index(self) -> dict[str, Any]:
        return DiffusersFolder(self.path).index() if self.whole else {}

    def scheduler(self) -> dict[str, Any]:
        """The scheduler's config. Raises UserError where a pipeline has none."""
        return DiffusersFolder(self.path).config("scheduler") if self.whole else dict(_PLAIN)

    def weights(self) -> Mapping[str, Tensor]:
        return DiffusersFolder(self._folder("unet").parent).weights(self._folder("unet").name)

    def weight_files(self) -> list[Path]:
        return DiffusersFolder(self._folder("unet").parent).weight_files(self._folder("unet").name)

    def _folder(self, part: str) -> Path:
        return self.path / part if self.whole else self.path


def find(base: str) -> PixelBase | None:
    """None for anything else. Raises UserError for a config that cannot be read."""
    folder, path = _diffusers_folder.find(base), Path(base)
    config = path / "unet" / "config.json" if folder else path / "config.json"
    if not base or not config.is_file():
        return None
    found = read_json(config)
    return PixelBase(path, found, folder is not None) if found.get("_class_name") == NETWORK else None
