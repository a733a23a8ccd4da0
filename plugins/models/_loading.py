"""Opens a base and builds its networks and tokenizers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plugins.models import _clip, _fill, _hub, _tokenizer, _unet, _vae
from plugins.models._diffusers_folder import DiffusersFolder, find
from plugins.models._identify import identify
from plugins.models._modules import NO_WEIGHTS, Network
from plugins.models._single_file import Layout, SingleFile
from plugins.models._source import BaseSource
from trainer.errors import UserError

RANDOM = "random"  # all parts start anew
OUTLINE = "outline"  # of a base: its networks on the meta device, without weights


def open_base(base: str, layouts: Mapping[str, Layout], init: str | Collection[str] = "") -> BaseSource:
    """The base as a source of configs and weights (none for the init "outline"). Raises UserError when it is none of
    the family's `layouts`."""
    source = _open(base, layouts)
    return WithoutWeights(source) if init == OUTLINE else source


def new_parts(init: str | Collection[str], parts: Collection[str]) -> set[str]:
    """Which of the parts an `init` starts anew."""
    named = {init} if isinstance(init, str) else set(init)
    return set(parts) if RANDOM in named else named & set(parts)


def _open(base: str, layouts: Mapping[str, Layout]) -> BaseSource:
    path = Path(base)
    if path.is_file():
        identity = identify(base)
        if identity is None or identity.layout not in layouts:
            what = "a file of no known kind" if identity is None else identity.what
            raise UserError(f"{base}: this is {what}, which this family cannot train")
        return SingleFile(path, layouts[identity.layout])
    folder = find(base)
    if folder is None and path.is_dir():
        raise UserError(f"{base}: no diffusers folder (there is no model_index.json in it)")
    return folder or _hub.whole(base)


def text_encoder(source: BaseSource, part: str, dtype: torch.dtype | None, *, projection: bool, fresh: bool) -> Network:
    """dtype: as `_modules.fill` takes it."""
    state = None if fresh else source.weights(part)
    return _clip.build(source.config(part), state, source.where(part), projection=projection, dtype=dtype)


def unet(source: BaseSource, text_width: int, dtype: torch.dtype | None, *, fresh: bool) -> Network:
    """The UNet. Raises UserError for another kind, or one that expects text states of another width."""
    config, where = source.config("unet"), source.where("unet")
    channels, out = config.get("in_channels", 4), config.get("out_channels", 4)
    if channels != out and not _fill.fills(config):
        raise UserError(
            f"{where}: the UNet takes {channels} channels and returns {out}: neither text-to-image nor inpainting"
        )
    if config.get("cross_attention_dim") != text_width:
        raise UserError(
            f"{where}: the UNet expects text states of width {config.get('cross_attention_dim')}, "
            f"the text encoding has {text_width}"
        )
    return _unet.build(config, None if fresh else source.weights("unet"), where, dtype)


def refuse_text_encoder(asked: str) -> None:
    """Raises UserError for model.text_encoder: the base holds its own."""
    if asked:
        raise UserError("model.text_encoder: the text encoders of this base are its own, in its file; leave it out.")


def vae(source: BaseSource, other: str, layout: Layout) -> tuple[Network, BaseSource]:
    """The VAE and where it is from: the base's, or the file or folder that `other` (model.vae) names."""
    origin = source if not other else vae_source(other, layout)
    if isinstance(source, WithoutWeights):
        origin = WithoutWeights(origin)
    if not origin.has("vae"):
        raise UserError(f"{origin.path}: holds no VAE; set model.vae to a VAE's file or diffusers folder")
    return _vae.build(origin.config("vae"), origin.weights("vae"), origin.where("vae")), origin


def vae_source(other: str, layout: Layout) -> BaseSource:
    """A VAE of its own: a file in the original names (with or without a checkpoint's prefix), a diffusers folder, or
    the vae folder of one. Raises UserError."""
    path = Path(other)
    if path.is_file():
        return _VaeFile(path, layout)
    if (path / "vae" / "config.json").is_file():
        return DiffusersFolder(path)
    if (path / "config.json").is_file():
        return _VaeFolder(path)
    raise UserError(f"model.vae: {other} is neither a file nor a folder with a VAE's config.json")


def tokenizer(source: BaseSource, part: str, asked: str, encoder: Network, *, zero_padding: bool) -> Any:
    """The tokenizer of a text encoder. Raises UserError when there is none or it does not fit."""
    found = _tokenizer.find(asked, part, source.tokenizer(part), zero_padding=zero_padding)
    _tokenizer.check(found, encoder.config.vocab_size, asked or str(source.tokenizer(part)))
    return found


class WithoutWeights:
    """A source that keeps its weights to itself."""

    def __init__(self, source: BaseSource) -> None:
        self._source = source
        self.path = source.path
        self.has, self.where, self.config = source.has, source.where, source.config
        self.tokenizer = source.tokenizer

    def weights(self, part: str) -> Mapping[str, Tensor]:
        return NO_WEIGHTS


class _VaeFile(SingleFile):
    """A file that may hold nothing but the VAE, then without the checkpoint's prefix."""

    def __init__(self, path: Path, layout: Layout) -> None:
        super().__init__(path, layout)
        if not self.has("vae") and "encoder.conv_in.weight" in self.header.shapes:
            self.layout = Layout({"vae": ""}, layout.text, layout.head_width, layout.vae_scale)


class _VaeFolder(DiffusersFolder):
    """The vae folder of a diffusers folder, by itself."""

    def has(self, part: str) -> bool:
        return part == "vae"

    def config(self, part: str) -> dict[str, Any]:
        return DiffusersFolder(self.path.parent).config(self.path.name)

    def weights(self, part: str) -> Any:
        return DiffusersFolder(self.path.parent).weights(self.path.name)
