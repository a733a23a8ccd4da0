"""Reads tensors from weight files, safetensors or (weights only) pickles, with errors that name the file."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainer.errors import UserError

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself; no tensor is read for it."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]  # safetensors' names: "F16", "BF16", ...
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Names and shapes of a weight file. Raises UserError when it is missing, damaged or of another kind."""
    if is_pickle(path):
        tensors = _read_pickle(path)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return Header(shapes, {name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items()}, {})
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return Header(
            shapes={name: tuple(part.get_shape()) for name, part in slices.items()},
            dtypes={name: part.get_dtype() for name, part in slices.items()},
            metadata=dict(file.metadata() or {}),
        )


def read_tensors(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of a weight file whose names are wanted, on the CPU, in memory of their own. Raises UserError.

    Pickles are read by torch's restricted reader, which builds tensors and plain containers and runs nothing;
    one that asks for more is refused.
    """
    if is_pickle(path):
        return {name: tensor.clone() for name, tensor in _read_pickle(path).items() if wanted(name)}
    with _opened(path) as file:
        # Cloned: safetensors maps the file, and a file that is overwritten in place would change the weights.
        return {name: file.get_tensor(name).clone() for name in file.keys() if wanted(name)}  # noqa: SIM118 (no mapping)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises UserError."""
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path}: not a sound safetensors file of {path.stat().st_size:,} bytes ({error}). "
            "It may be incomplete (compare its size with the original's, or get it again) or another kind of file."
        ) from error


def is_pickle(path: Path) -> bool:
    """Whether a file with a pickle's name starts like torch.save's output: a zip archive, or a bare pickle."""
    if path.suffix not in PICKLE_SUFFIXES:
        return False
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    with path.open("rb") as file:
        return file.read(4)[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04")


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: refused, because it is not a pickle of plain tensors ({reason}). "
            "Pickles can run programs; use the .safetensors version of this model."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise UserError(f"{path}: holds no tensors")
    return tensors
