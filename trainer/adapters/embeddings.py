"""Files of embeddings (textual inversion): of one new word each, as A1111 and ComfyUI read them, and inside a LoRA.

A word's file holds `emb_params` for one text encoder, `clip_l` and `clip_g` for SDXL's two, (n, E) each; its name is
the word. In a LoRA they are `bundle_emb.<word>.string_to_param.*`, or `bundle_emb.<word>.clip_l` and `.clip_g`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from trainer.batch import EMBEDDINGS, NewWord
from trainer.errors import UserError
from trainer.files.atomic import write_folder
from trainer.files.tensor_file import read_tensors
from trainer.protocols import Family

BUNDLE = "bundle_emb."
_ONE = "emb_params"
_IN_BUNDLE = {_ONE: "string_to_param.*"}  # as A1111 and ComfyUI look for it
_OWN = (_ONE, "emp_params", "clip_l", "clip_g", "clip_h")  # the second is OneTrainer's
_WIDTHS = {768: "SD 1.x", 1024: "SD 2.x"}

Embedding = Mapping[str, Tensor]  # (n, E) by the names in its file


def split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Embedding]]:
    """What else is in a LoRA's file, and the embeddings by word."""
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(BUNDLE)}
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(BUNDLE):
            word, _, leaf = name.removeprefix(BUNDLE).partition(".")
            found.setdefault(word, {})[_ONE if leaf.startswith("string_to_param") else leaf] = _rows(tensor)
    return rest, dict(found)


def bundled(words: Mapping[str, Embedding]) -> dict[str, Tensor]:
    """The tensors of embeddings for a LoRA's file, float32."""
    return {
        f"{BUNDLE}{word}.{_IN_BUNDLE.get(key, key)}": tensor
        for word, embedding in words.items()
        for key, tensor in embedding.items()
    }


def of_family(family: Family) -> dict[str, Embedding]:
    """The live vectors of its new words, as files have them: float32 on the CPU."""
    found: dict[str, dict[str, Tensor]] = {}
    if EMBEDDINGS in family.parts:
        for place, parameter in family.parts[EMBEDDINGS].named_parameters():
            part, _, name = place.rpartition(".")
            key = family.embedding_keys[part][0]
            found.setdefault(name.strip("<>"), {})[key] = parameter.detach().to("cpu", torch.float32, copy=True)
    return dict(found)


def for_family(family: Family, name: str, embedding: Embedding, where: str) -> NewWord:
    """A word with the vectors of a file. Raises UserError where they are for another kind of base."""
    if not family.embedding_keys:
        raise UserError(f"{where}: holds an embedding, and {no_words(family)}")
    given = {
        part: embedding[key]
        for part, keys in family.embedding_keys.items()
        if (key := next((one for one in keys if one in embedding), None)) is not None
    }
    missing = [keys[0] for part, keys in family.embedding_keys.items() if part not in given]
    if missing or len(embedding) > len(given):
        raise UserError(
            f"{where}: the embedding {name!r} holds {', '.join(sorted(embedding))}; for this base it needs "
            f"{', '.join(keys[0] for keys in family.embedding_keys.values())}. Is it for another model?"
        )
    if len({len(tensor) for tensor in given.values()}) > 1:
        raise UserError(f"{where}: the embedding {name!r} has other numbers of vectors for each text encoder")
    return NewWord(name, given=given)


def no_words(family: Family) -> str:
    return f"{family.name!r} has no CLIP text encoder that could learn new words."


def read(path: Path) -> Embedding:
    """An embedding's own file, by any program: one tensor under any name is that of the one encoder. Raises
    UserError."""
    tensors = read_tensors(path)
    if len(tensors) == 1:
        ((name, tensor),) = tensors.items()
        tensors = {name if name.startswith("clip_") else _ONE: tensor}
    found = {name: _rows(tensor) for name, tensor in tensors.items()}
    odd = [name for name, tensor in found.items() if not (tensor.is_floating_point() and tensor.ndim == 2)]
    if odd or not holds(found):
        raise UserError(f"{path}: no embedding: it holds {', '.join(sorted(tensors)[:5])}")
    return found


def write(folder: Path, words: Mapping[str, Embedding], metadata: Mapping[str, str]) -> None:
    """A file for each word, read back before the folder takes its name. Raises UserError, and leaves an older folder
    as it is, for vectors that hold NaN or infinity."""
    for word, embedding in words.items():
        if not all(bool(tensor.isfinite().all()) for tensor in embedding.values()):
            raise UserError(f"{folder}: not written, the vectors of {word!r} hold NaN or infinity")

    def fill(path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        for word, embedding in words.items():
            told = {**metadata, "modelspec.title": word}
            (path / f"{word}.safetensors").write_bytes(safetensors.torch.save(dict(embedding), told))

    def prove(path: Path) -> None:
        for word, embedding in words.items():
            if not equal(read(path / f"{word}.safetensors"), embedding):
                raise OSError(None, "it reads back differently", str(path / word))

    write_folder(folder, fill, validate=prove)


def equal(one: Embedding, other: Embedding) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def holds(names: Iterable[str]) -> bool:
    """Whether a file with these tensors is an embedding's own; diffusers' name theirs as they like."""
    found = set(names)
    return bool(found) and found <= {*_OWN}


def told(name: str, embedding: Embedding) -> str:
    """In words, for `inspect`."""
    count = len(next(iter(embedding.values())))
    widths = [int(embedding[key].shape[-1]) for key in sorted(embedding, reverse=True)]  # clip_l, clip_g
    kind = "SDXL" if "clip_g" in embedding else _WIDTHS.get(widths[0], "")
    size = " and ".join(map(str, widths))
    made_for = f" for {kind}" if kind else ""
    return f"{name}: {count} vector{'s' if count > 1 else ''} of {size} numbers{made_for}"


def broken(words: Mapping[str, Embedding]) -> Iterator[str]:
    """The words whose vectors hold NaN or infinity."""
    for word, embedding in words.items():
        if not all(bool(tensor.float().isfinite().all()) for tensor in embedding.values()):
            yield word


def _rows(tensor: Tensor) -> Tensor:
    """diffusers keeps a single vector without the dimension of their number."""
    return tensor[None] if tensor.ndim == 1 else tensor
