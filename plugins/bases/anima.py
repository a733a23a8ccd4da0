"""What the header of an Anima base tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from plugins.models import _anima_files
from plugins.models._anima_config import PATCH
from plugins.models._anima_files import Folder
from plugins.models._needs_a_base import needs_a_base
from trainer.errors import UserError
from trainer.files.tensor_file import is_pickle, read_json
from trainer.protocols import Outline

_PARTS = ("transformer", "text_encoder")
_CELL = 8  # pixels of a latent cell of the published VAE, where its own config is not beside the base


class AnimaBase:
    """diffusers' folders, and the diffusion model's file of ComfyUI's three."""

    families: ClassVar[tuple[str, ...]] = ("anima",)

    @classmethod
    def outline(cls, base: str) -> Outline | None:
        path = Path(base)
        if not path.exists() or (path.is_file() and is_pickle(path)):
            return None  # a hub id, or a file of which only torch knows the names
        folder = _anima_files.is_folder(base)
        if not folder and not _anima_files.is_file(base):
            return None
        what = "a diffusers folder of Anima" if folder else "an Anima diffusion model (one file)"
        names = {"transformer": [*_anima_files.weight_names(base)]}
        return Outline("anima", what, _multiple(path) if folder else 0, _PARTS, _PARTS[1:], names)

    @classmethod
    def of_new(cls, network: Mapping[str, Any], classes: Sequence[str]) -> Outline:
        """There is none."""
        raise UserError(f"model.network: {needs_a_base(cls.families[0])}")


def _multiple(path: Path) -> int:
    """A latent cell times a patch."""
    config = Folder(path).path / "vae" / "config.json"
    levels = read_json(config).get("temperal_downsample") if config.is_file() else None
    return (2 ** len(levels) if isinstance(levels, list) else _CELL) * PATCH[-1]


PLUGIN = AnimaBase
