"""What the header of a Stable Diffusion base tells."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from plugins.models import _original_config
from plugins.models._diffusers_folder import DiffusersFolder, find
from plugins.models._identify import Identity, identify
from plugins.models._needs_a_base import needs_a_base
from plugins.models._original_names import unet_names
from trainer.errors import UserError
from trainer.files.tensor_file import is_pickle, read_header
from trainer.protocols import Outline

_TEXTS = ("text_encoder", "text_encoder_2")
_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_TEXT_MODEL = "text_model."  # a prefix that transformers 5 has no more


class StableDiffusionBase:
    """Diffusers folders and checkpoints in one file."""

    families: ClassVar[tuple[str, ...]] = ("sd", "sdxl")

    @classmethod
    def outline(cls, base: str) -> Outline | None:
        path = Path(base)
        if not path.exists() or (path.is_file() and is_pickle(path)):
            return None  # a hub id, or a file of which only torch knows the names
        identity = identify(base)
        if identity is None or not identity.family:
            return None if identity is None else Outline("", identity.what)
        folder = find(base)
        parts = ("unet", *_TEXTS[: 2 if identity.family == "sdxl" else 1])
        if folder is None:
            return _of_file(path, identity, parts)
        return Outline(identity.family, identity.what, _cell(folder), parts, parts[1:], _names(folder, parts))

    @classmethod
    def of_new(cls, network: Mapping[str, Any], classes: Sequence[str]) -> Outline:
        """There is none."""
        raise UserError(f"model.network: {needs_a_base(cls.families[0])}")


def _cell(folder: DiffusersFolder) -> int:
    channels = folder.config("vae").get("block_out_channels", ()) if folder.has("vae") else ()
    return int(2 ** (len(channels) - 1)) if channels else 0


def _names(folder: DiffusersFolder, parts: Collection[str]) -> dict[str, Collection[str]]:
    """By reading every header that is there, which finds those that are cut off, the VAE's too. A text encoder's names
    with and without the prefix that versions of transformers differ in."""
    found: dict[str, Collection[str]] = {}
    for part in (*parts, "vae"):
        files = _files(folder, part)
        if files and not any(is_pickle(file) for file in files):
            names = [name for file in files for name in read_header(file).shapes]
            found[part] = names if part == "unet" else [*names, *(n.removeprefix(_TEXT_MODEL) for n in names)]
    return {part: names for part, names in found.items() if part in parts}


def _files(folder: DiffusersFolder, part: str) -> list[Path]:
    """None where there are none: a part may start anew."""
    with suppress(UserError):
        return folder.weight_files(part)
    return []


def _of_file(path: Path, identity: Identity, parts: tuple[str, ...]) -> Outline:
    shapes = read_header(path).shapes
    unet = {n.removeprefix(_UNET): shape for n, shape in shapes.items() if n.startswith(_UNET)}
    levels = {n.split(".")[3] for n in shapes if n.startswith(f"{_VAE}encoder.down.")}
    try:
        table = unet_names(_original_config.unet(unet, head_width=None))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, StopIteration, IndexError, ValueError) as error:
        raise UserError(f"{path}: its unet is incomplete ({error} is missing)") from error
    names = [name for original in unet if (name := table.to_diffusers(original)) is not None]
    cell = 2 ** (len(levels) - 1) if levels else 0
    return Outline(identity.family, identity.what, cell, parts, parts[1:], {"unet": names})


PLUGIN = StableDiffusionBase
