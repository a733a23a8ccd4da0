"""Reads tensors from weight files, safetensors or (weights only) pickles, with errors that name the file.

A header, or a JSON file, is read without torch.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError
from trainer.files.safetensors_header import Header, read, unsound

if TYPE_CHECKING:
    from torch import Tensor

MAPPED = 2**28  # bytes of a file that stay mapped at most: what was read counts as the program's memory until then
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")


def read_header(path: Path) -> Header:
    """Names and shapes of a weight file. Raises UserError when it is missing, damaged or of another kind."""
    if is_pickle(path):
        tensors = _read_pickle(path)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return Header(shapes, {name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items()}, {})
    return read(path)


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


class Stored(Mapping[str, "Tensor"]):
    """The tensors of a weight file whose names are wanted, each read when it is asked for, into memory of its own.

    Raises UserError for damaged files, also later, and for one that changes meanwhile.
    """

    def __init__(self, path: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
        self._path = path
        self._whole = _read_pickle(path) if is_pickle(path) else None  # mapped, if it is a pickle of today
        self._state, self._mapped = _state(path), 0
        self._file: Any = None
        if self._whole is None:
            read(path)  # says better what is wrong
            with _sound(path):
                self._file = _open(path)
        names = self._file.keys() if self._whole is None else self._whole
        self._names = dict.fromkeys(name for name in names if wanted(name))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        if self._whole is not None:
            return self._whole[name].clone()
        with _sound(self._path):
            if self._mapped > MAPPED:
                self._file, self._mapped = None, 0
                self._file = _open(self._path)
            if _state(self._path) != self._state:
                raise UserError(f"{self._path}: the file was changed while it was read.")
            tensor: Tensor = self._file.get_tensor(name).clone()
        self._mapped += tensor.nbytes
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # Mapping's own would read the tensor


def _state(path: Path) -> tuple[int, ...]:
    """By which a file that was exchanged is known."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


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
    read(path)  # says better what is wrong
    with _sound(path), _open(path) as file:
        yield file


def _open(path: Path) -> Any:
    from safetensors import safe_open

    return safe_open(str(path), framework="pt", device="cpu")


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Raises UserError in the place of what libraries raise for a damaged file."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise unsound(path, str(error)) from error


def is_pickle(path: Path) -> bool:
    """Whether a file with a pickle's name starts like torch.save's output: a zip archive, or a bare pickle."""
    if path.suffix not in PICKLE_SUFFIXES:
        return False
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    with path.open("rb") as file:
        return file.read(4)[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04")


def _read_pickle(path: Path) -> dict[str, Tensor]:
    import torch

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
    if isinstance(content, dict) and isinstance(content.get("string_to_param"), dict):  # an embedding of A1111
        content = content["string_to_param"]
    tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise UserError(f"{path}: holds no tensors")
    return tensors
