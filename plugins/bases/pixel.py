"""What the header of a model in pixel space tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from plugins.models import _pixel_base, _pixel_network
from trainer.errors import UserError
from trainer.files.tensor_file import is_pickle, read_header
from trainer.protocols import Outline


class PixelBaseReader:
    """Diffusers folders with a UNet2DModel, and new ones of model.network."""

    families: ClassVar[tuple[str, ...]] = ("pixel",)

    @classmethod
    def outline(cls, base: str) -> Outline | None:
        found = _pixel_base.find(base)
        if found is None:
            return None
        if found.refused:
            return Outline("", f"{found.what}: {found.refused}")
        names: list[str] = []
        with suppress(UserError):  # it may start anew
            names = [n for file in found.weight_files() if not is_pickle(file) for n in read_header(file).shapes]
        return _outline(found.what, found.config, {"unet": names} if names else {})

    @classmethod
    def of_new(cls, network: Mapping[str, Any], classes: Sequence[str]) -> Outline:
        return _outline("a new UNet in pixel space", _pixel_network.asked(network, classes).config, {})


def _outline(what: str, config: Mapping[str, Any], names: Mapping[str, list[str]]) -> Outline:
    conditional = bool(config.get("num_class_embeds"))
    multiple = _pixel_network.size_multiple(config)
    return Outline("pixel", what, multiple, ("unet",), names=names, reads_captions=conditional)


PLUGIN = PixelBaseReader
