"""Where Anima's parts are: ComfyUI's three files, or a diffusers folder.

Headers are read without torch, which only weights need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from plugins.models import _anima_config, _anima_names, _anima_vae_names
from plugins.models._diffusers_folder import DiffusersFolder
from plugins.models._lazily import Lazily, renamed
from trainer.errors import UserError
from trainer.files.tensor_file import PICKLE_SUFFIXES, Stored, read_header, read_json

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
INDICES = ("modular_model_index.json", "model_index.json")
TOKENIZERS = ("tokenizer", "t5_tokenizer")  # Qwen's and T5's, by their folders' names in diffusers' layout
# Where ComfyUI keeps the other two files, beside the folder of the first.
_FOLDERS = {"text_encoder": ("text_encoders", "clip"), "vae": ("vae",)}
# And tokenizers in the programs' own folders, above that of the models.
PROGRAMS = {
    "tokenizer": ("comfy/text_encoders/qwen25_tokenizer", "configs/qwen3_06b"),
    "t5_tokenizer": ("comfy/text_encoders/t5_tokenizer", "configs/t5_old"),
}
_ABOVE = 4  # folders above a file that are looked into for those
_CONDITIONER = "llm_adapter."


class Source(Protocol):
    """Parts are "transformer", "text_conditioner", "text_encoder" and "vae"; "scheduler" has a config only."""

    @property
    def path(self) -> Path: ...

    def where(self, part: str) -> str:
        """The part's place, for messages."""
        ...

    def config(self, part: str) -> dict[str, Any]:
        """diffusers' or transformers' config. Raises UserError."""
        ...

    def weights(self, part: str) -> Mapping[str, Tensor]:
        """Under diffusers' or transformers' names, in the files' precision, each read when it is asked for. Raises
        UserError."""
        ...

    def tokenizers(self, name: str) -> list[Path]:
        """Folders where a tokenizer may be, the nearest first."""
        ...


def is_folder(base: str) -> bool:
    """Whether it is a diffusers folder of this family."""
    path = Path(base)
    return any((path / index).is_file() and "text_conditioner" in read_json(path / index) for index in INDICES)


def is_file(base: str) -> bool:
    """Whether it is a diffusion model's file of this family. Raises UserError for a damaged one."""
    path = Path(base)
    known = path.is_file() and path.suffix in (SUFFIX, *PICKLE_SUFFIXES)
    return known and _anima_names.file_prefix(read_header(path).shapes) is not None


class Folder(DiffusersFolder):
    """A diffusers folder, of modular pipelines too."""

    def tokenizers(self, name: str) -> list[Path]:
        return [self.path / name]

    def weights(self, part: str) -> Mapping[str, Tensor]:
        state = super().weights(part)
        return plain(state) if part == "text_encoder" else state


@dataclass(frozen=True)
class Files:
    """ComfyUI's diffusion model, text encoder and VAE; a text encoder may be a folder of transformers too."""

    path: Path  # the diffusion model's file
    text: Path
    image: Path

    def where(self, part: str) -> str:
        return str({"text_encoder": self.text, "vae": self.image}.get(part, self.path))

    def tokenizers(self, name: str) -> list[Path]:
        own = [self.text] if self.text != Path() and self.text.is_dir() and name == "tokenizer" else []
        above = [self.path.parent, *list(self.path.resolve().parents)[1 : _ABOVE + 1]]
        return [*own, above[0] / name, *(folder / place for folder in above for place in PROGRAMS[name])]

    def config(self, part: str) -> dict[str, Any]:
        if part == "scheduler":
            return {"num_train_timesteps": 1000, "shift": _anima_config.SHIFT}
        if part == "text_encoder" and self.text.is_dir():
            return read_json(self.text / "config.json")
        made: dict[str, Callable[[_anima_config.Shapes], dict[str, Any]]] = {
            "transformer": _anima_config.transformer,
            "text_conditioner": _anima_config.conditioner,
            "text_encoder": _anima_config.text_encoder,
            "vae": _anima_config.vae,
        }
        try:
            return made[part](self._shapes(part))
        except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
            raise UserError(f"{self.where(part)}: its {part} is incomplete ({error} is missing)") from error

    def weights(self, part: str) -> Mapping[str, Tensor]:
        if part == "text_encoder":
            return plain(_stored(self.text))
        if part == "vae":
            resnets = int(self.config("vae")["num_res_blocks"]) + 1  # the decoder has one more
            state = Stored(self.image)
            return (
                renamed(state, lambda name: _anima_vae_names.to_diffusers(name, resnets)) if _is_wan(state) else state
            )
        inner = renamed(Stored(self.path, lambda name: name.startswith(self.prefix)), self._inner)
        own = _anima_names.CONDITIONER
        if part == "transformer":
            return renamed(inner, lambda name: None if name.startswith(own) else name)
        return renamed(inner, lambda name: name.removeprefix(own) if name.startswith(own) else None)

    @cached_property
    def prefix(self) -> str:
        return _anima_names.file_prefix(read_header(self.path).shapes) or ""

    def names(self) -> list[str]:
        """Of the diffusion model's tensors, without their prefix."""
        return [name.removeprefix(self.prefix) for name in read_header(self.path).shapes]

    def _inner(self, name: str) -> str | None:
        return _anima_names.to_diffusers(name.removeprefix(self.prefix))

    def _shapes(self, part: str) -> dict[str, tuple[int, ...]]:
        if part == "text_encoder":
            return {n.removeprefix("model."): tuple(s) for n, s in read_header(self.text).shapes.items()}
        if part == "vae":
            return {n: tuple(s) for n, s in read_header(self.image).shapes.items()}
        shapes = {n.removeprefix(self.prefix): tuple(s) for n, s in read_header(self.path).shapes.items()}
        if part == "transformer":
            return {n: s for n, s in shapes.items() if not n.startswith(_CONDITIONER)}
        return {n.removeprefix(_CONDITIONER): s for n, s in shapes.items() if n.startswith(_CONDITIONER)}


def bare(path: Path) -> Files:
    """The diffusion model's file by itself."""
    return Files(path, Path(), Path())


def open_base(base: str, text_encoder: str, vae: str) -> Source:
    """Raises UserError for what is none of this family's bases, or lacks a part, with where it was looked for."""
    path = Path(base)
    if is_folder(base):
        if text_encoder:
            raise UserError("model.text_encoder: this base is a folder that holds its own; leave it out.")
        if vae:
            raise UserError("model.vae: this base is a folder that holds its own; leave it out.")
        return Folder(path)
    if not is_file(base):
        raise UserError(f"{base}: this is neither a diffusion model's file of Anima nor a diffusers folder of it")
    text = Path(text_encoder) if text_encoder else _beside(path, "text_encoder", _is_text_encoder)
    image = Path(vae) if vae else _beside(path, "vae", _is_vae)
    if not (text.is_dir() and (text / "config.json").is_file()) and not _is_text_encoder(text):
        raise UserError(f"model.text_encoder: {text}: this is no text encoder of Anima (Qwen3's weights)")
    if not _is_vae(image):
        raise UserError(f"model.vae: {image}: this is no VAE of Anima (the file of Qwen-Image's or Wan 2.1's)")
    return Files(path, text, image)


def _beside(base: Path, part: str, fits: Callable[[Path], bool]) -> Path:
    """The file of a part in the base's folder or in ComfyUI's for it. Raises UserError where there is none or more than
    one."""
    folders = [base.parent, *(base.parent.parent / name for name in _FOLDERS[part])]
    for folder in folders:
        found = [file for file in sorted(folder.glob(f"*{SUFFIX}")) if file != base and _sound_and(fits, file)]
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise UserError(f"model.{part}: {folder} holds several that fit ({names}); name one of them.")
        if found:
            return found[0]
    told = ", ".join(map(str, folders))
    raise UserError(
        f"model.{part}: the base is a diffusion model alone, and there is none beside it (looked in {told})."
    )


def _sound_and(fits: Callable[[Path], bool], file: Path) -> bool:
    """A neighbour that is damaged is nobody's fault here."""
    try:
        return fits(file)
    except UserError:
        return False


def _is_text_encoder(path: Path) -> bool:
    names = read_header(path).shapes if path.is_file() else {}
    bare = {name.removeprefix("model.") for name in names}
    return {"embed_tokens.weight", "layers.0.self_attn.q_norm.weight", "layers.0.mlp.gate_proj.weight"} <= bare


def _is_vae(path: Path) -> bool:
    shapes = read_header(path).shapes if path.is_file() else {}
    return _is_wan(shapes) and "decoder.middle.0.residual.0.gamma" in shapes


def _is_wan(names: Mapping[str, object]) -> bool:
    return "conv1.weight" in names and "encoder.conv1.weight" in names


def _stored(path: Path) -> Mapping[str, Tensor]:
    """Of a file, or of the shards in a folder of transformers."""
    files = [Stored(file) for file in ([path] if path.is_file() else sorted(path.glob(f"model*{SUFFIX}")))]
    if not files:
        raise UserError(f"{path}: no weights (looked for model.safetensors and its shards)")
    return Lazily({name: partial(file.__getitem__, name) for file in files for name in file})


def plain(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """transformers' names of Qwen3Model: without "model." and the head that shares the embeddings."""
    return renamed(state, lambda name: None if name == "lm_head.weight" else name.removeprefix("model."))


def weight_names(base: str) -> Iterator[str]:
    """Of the transformer as it trains, from the headers alone."""
    if not is_folder(base):
        yield from filter(None, map(_anima_names.to_diffusers, bare(Path(base)).names()))
        return
    folder = Folder(Path(base))
    for part, prefix in (("transformer", ""), ("text_conditioner", _anima_names.CONDITIONER)):
        for file in folder.weight_files(part):
            yield from (prefix + name for name in read_header(file).shapes)
