"""A base in the original layout, one file: its parts under diffusers' names, and the way back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from plugins.models import _clip, _marks, _open_clip, _original_config
from plugins.models._lazily import renamed
from plugins.models._original_names import Names, unet_names, vae_names
from trainer.errors import UserError
from trainer.files.tensor_file import Header, Stored, read_header, read_tensors

TextKind = Literal["clip", "open_clip", "open_clip_without_last"]
_EMA = "model_ema."
_OWN = "model."  # what the names under `_EMA` leave out, besides the dots


@dataclass(frozen=True)
class Layout:
    """Where a family's parts are in the file, and what their shapes don't tell."""

    prefixes: Mapping[str, str]  # part -> prefix
    text: Mapping[str, TextKind]  # part -> how it is stored
    head_width: int | None  # channels of one of the UNet's attention heads; None = 8 heads
    vae_scale: float

    def found_in(self, names: Iterable[str]) -> Layout:
        """The same with the prefixes of this file: some lack "text_model." below a CLIP encoder's prefix."""
        known = set(names)
        shorter = {
            part: prefix.removesuffix("text_model.")
            for part, prefix in self.prefixes.items()
            if not any(name.startswith(prefix) for name in known)
        }
        return replace(self, prefixes={**self.prefixes, **shorter})


class SingleFile:
    """Reads one part at a time. Raises UserError for damaged files."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path = path
        self.header: Header = read_header(path)
        self.layout = layout.found_in(self.header.shapes)

    def has(self, part: str) -> bool:
        return part == "scheduler" or bool(self._shapes(part))

    def where(self, part: str) -> str:
        return str(self.path)

    def tokenizer(self, part: str) -> Path:
        """Where the tokenizer would be: a folder of the part's name beside the file, or the file's own folder."""
        own = self.path.parent / part
        return own if own.is_dir() else self.path.parent

    def config(self, part: str) -> dict[str, Any]:
        """The part's diffusers or transformers config, worked out from shapes and the family's facts."""
        if part == "scheduler":
            return self._scheduler()
        shapes = self._shapes(part)
        if not shapes:
            raise UserError(f"{self.path}: holds no {part} (no tensors named {self.layout.prefixes[part]}...)")
        try:
            if part == "unet":
                return _original_config.unet(shapes, head_width=self.layout.head_width, pooled=self._pooled)
            if part == "vae":
                return _original_config.vae(shapes, self.layout.vae_scale)
            if self.layout.text[part] == "clip":
                return _original_config.clip(shapes)
            return _original_config.open_clip(shapes, drop_last=self.layout.text[part] == "open_clip_without_last")
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error
        except (KeyError, StopIteration, IndexError, ValueError) as error:
            raise UserError(f"{self.path}: its {part} is incomplete ({error} is missing)") from error

    def weights(self, part: str) -> Mapping[str, Tensor]:
        """The part's weights in diffusers' or transformers' flat names, in the file's precision, each read when it is
        asked for."""
        prefix = self.layout.prefixes[part]
        state = Stored(self.path, lambda name: name.startswith(prefix))
        inner = renamed(state, lambda name: name.removeprefix(prefix))
        if part not in self.layout.text:
            return from_original(inner, _names(part, self.config(part)))
        kind = self.layout.text[part]
        if kind == "clip":
            return _clip.flat_names(inner)
        layers = int(self.config(part)["num_hidden_layers"])
        return _open_clip.to_transformers(inner, layers, projection=kind == "open_clip")

    def _scheduler(self) -> dict[str, Any]:
        names, metadata = self.header.shapes, self.header.metadata
        prediction = _marks.stated_prediction(names, metadata)
        return _original_config.scheduler(prediction, zero_snr=_marks.stated_zero_snr(names, metadata))

    def _shapes(self, part: str) -> dict[str, tuple[int, ...]]:
        prefix = self.layout.prefixes[part]
        return {n.removeprefix(prefix): s for n, s in self.header.shapes.items() if n.startswith(prefix)}

    @cached_property
    def _pooled(self) -> int:
        """Width of the pooled text states: the projection of the last text encoder, if it has one."""
        last = list(self.layout.text)[-1]
        projection = self._shapes(last).get("text_projection") if self.layout.text[last] == "open_clip" else None
        return projection[1] if projection else 0


def _names(part: str, config: Mapping[str, Any]) -> Names:
    return unet_names(config) if part == "unet" else vae_names(config)


def from_original(state: Mapping[str, Tensor], names: Names) -> Mapping[str, Tensor]:
    """UNet or VAE weights under diffusers' names; names that no part of the network has are left out (they are kept in
    the file that is written back)."""
    return renamed(state, names.to_diffusers, _as_linear)


def to_original(
    state: Mapping[str, Tensor], part: str, config: Mapping[str, Any], layout: Layout, *, complete: bool
) -> dict[str, Tensor]:
    """A part's weights (diffusers' or transformers' names) under their names in the file, prefix included.

    complete: with the last text layer that SD 2.x files have and nobody uses, as a copy of the one before.
    """
    if part in layout.text:
        flat = _clip.flat_names(state)
        if complete and layout.text[part] == "open_clip_without_last":
            flat = _open_clip.with_unused_layer(flat)
        named = flat if layout.text[part] == "clip" else _open_clip.to_open_clip(flat)
    else:
        table = _names(part, config)
        named = {str(table.to_original(n)): _as_convolution(n, t) if part == "vae" else t for n, t in state.items()}
    return {layout.prefixes[part] + name: tensor for name, tensor in named.items()}


def assemble(live: Mapping[str, Tensor], source: SingleFile | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of the file to write: what trained as `dtype`, and everything else as it is in the source.

    live: all weights under their names in the file, in the precision in which they are held. One that equals the
    source's in that precision did not train and is taken from the source, bit for bit. EMA copies of what trained get
    the trained weights, so that a reader that prefers them sees the training too. The source's marks are left out.
    """
    if source is None:
        return {name: tensor.to("cpu", dtype) for name, tensor in live.items()}
    old = read_tensors(source.path, lambda name: name not in _marks.MARKS)
    trained = {name: t.to("cpu", dtype) for name, t in live.items() if name not in old or not _unchanged(t, old[name])}
    averages = {_ema_name(name): tensor.clone() for name, tensor in trained.items()}
    changed = {**{name: tensor for name, tensor in averages.items() if name in old}, **trained}
    return {**old, **{n: t.reshape(old[n].shape) if n in old else t for n, t in changed.items()}}


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt", **metadata})


def _unchanged(new: Tensor, old: Tensor) -> bool:
    """Whether the live tensor is what loading `old` gave."""
    return new.numel() == old.numel() and torch.equal(new.cpu(), old.to(new.dtype).reshape(new.shape))


def _ema_name(name: str) -> str:
    return _EMA + name.removeprefix(_OWN).replace(".", "")


def _as_linear(name: str, tensor: Tensor) -> Tensor:
    """The VAE's attention is 1x1 convolutions in the file and linear layers in diffusers."""
    inside = ".attentions." in name and any(f".{n}.weight" in name for n in ("to_q", "to_k", "to_v", "to_out.0"))
    return tensor[:, :, 0, 0] if inside and tensor.ndim == 4 else tensor


def _as_convolution(name: str, tensor: Tensor) -> Tensor:
    return tensor[:, :, None, None] if ".attentions." in name and tensor.ndim == 2 else tensor
