"""A folder of tensors under content keys, in safetensors files that are written once and never changed.

A shard is either there, whole, or not there: a killed process loses what it had not finished and damages nothing, and
several processes may write at the same time. Equal entries give equal files under equal names.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import shutil
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from trainer.errors import RunError
from trainer.files import atomic

Entry = Mapping[str, Tensor]  # what a key stands for: named tensors
SUFFIX = ".safetensors"
OPEN_FILES = 128
LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8, "I64": torch.int64}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one tensor lies."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int  # in the file
    end: int


@dataclass(frozen=True, slots=True)
class _Shard:
    path: Path
    checksums: Mapping[str, int]


class ShardStore:
    """Reading is safe from any number of threads; what other processes have written is seen after `refresh`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[str] = []  # shards that were found broken and removed
        self._places: dict[str, tuple[_Shard, tuple[_Place, ...]]] = {}
        self._known: set[str] = set()
        self._checked: set[str] = set()
        self._files = _OpenFiles()
        self.refresh()

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def refresh(self) -> None:
        """Takes in the shards that have come since. A broken one is removed, so that its entries are made again."""
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path.name not in self._known and not path.name.startswith("."):
                self._take_in(path)

    def _take_in(self, path: Path) -> None:
        try:
            self._places |= _index(path)
            self._known.add(path.name)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self.damaged.append(f"{path}: {error}")
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            return  # another process removed it

    def write(self, entries: Mapping[str, Entry]) -> None:
        """Adds one shard. Raises RunError when it cannot be written; what was there stays as it is."""
        path = self.folder / (hashlib.blake2b("/".join(sorted(entries)).encode(), digest_size=16).hexdigest() + SUFFIX)
        if path.exists():  # another process was faster; whoever has it open must not find it changed
            self.refresh()
            return
        tensors: dict[str, Tensor] = {}
        checksums: dict[str, int] = {}
        for key in sorted(entries):
            parts = {name: tensor.contiguous() for name, tensor in entries[key].items()}
            checksums[key] = checksum(parts[name] for name in sorted(parts))
            tensors |= {f"{key}.{name}": tensor for name, tensor in parts.items()}
        # One metadata entry: several would be written in an order that differs from process to process.
        metadata = {"crc32": json.dumps(checksums, sort_keys=True)}
        try:
            atomic.write_file(path, lambda temporary: save_file(tensors, temporary, metadata))
        except (OSError, SafetensorError) as error:
            need = sum(tensor.nbytes for tensor in tensors.values())
            raise _cannot_write(path, need, error) from error
        self._take_in(path)

    def read(self, key: str) -> dict[str, Tensor]:
        """The tensors of a key, on the CPU. Raises KeyError, or RunError when the file is damaged."""
        shard, places = self._places[key]
        found = {place.name: self._tensor(shard, place) for place in places}
        if key not in self._checked:
            if checksum(found[name] for name in sorted(found)) != shard.checksums.get(key):
                raise self._damaged(shard)
            self._checked.add(key)
        return found

    def read_stacked(self, keys: Sequence[str], name: str) -> Tensor | None:
        """(B, ...): the tensors of several keys that hold nothing but `name`, read straight into one; None where a key
        holds more or shapes differ. Raises like `read`."""
        found = [self._places[key] for key in keys]
        first = found[0][1][0]
        kind = (name, first.shape, first.dtype)
        if any(len(places) != 1 or (places[0].name, places[0].shape, places[0].dtype) != kind for _, places in found):
            return None
        if any(key not in self._checked for key in keys):
            return torch.stack([self.read(key)[name] for key in keys])
        stacked = torch.empty((len(keys), *first.shape), dtype=first.dtype)
        rows = _bytes(stacked).reshape(len(keys), -1)
        for row, (shard, places) in zip(rows, found, strict=True):
            row[:] = self._content(shard, places[0])
        return stacked

    def _tensor(self, shard: _Shard, place: _Place) -> Tensor:
        tensor = torch.empty(place.shape, dtype=place.dtype)
        _bytes(tensor)[:] = self._content(shard, place)
        return tensor

    def _content(self, shard: _Shard, place: _Place) -> NDArray[np.uint8]:
        """The bytes of one tensor, as they lie in the file."""
        content = self._files.get(shard.path)
        if place.end > len(content):
            raise self._damaged(shard)
        return content[place.begin : place.end]

    def _damaged(self, shard: _Shard) -> RunError:
        self._files.close(shard.path)
        with contextlib.suppress(OSError):  # Windows keeps a file that another process has open
            shard.path.unlink()
        return RunError(
            f"{shard.path}: this part of the cache was damaged on the disk, and has been removed. "
            "Start again: what it held is encoded anew."
        )


def checksum(tensors: Iterable[Tensor]) -> int:
    """CRC-32 over the bytes of tensors."""
    value = 0
    for tensor in tensors:
        value = zlib.crc32(_bytes(tensor).data, value)
    return value


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """The memory of a contiguous tensor as bytes, (N,)."""
    return cast(NDArray[np.uint8], tensor.reshape(-1).view(torch.uint8).numpy())


def _index(path: Path) -> dict[str, tuple[_Shard, tuple[_Place, ...]]]:
    """The entries of a shard, from its header. Raises ValueError when header and file do not fit."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise ValueError("not a whole safetensors file")
        header: dict[str, Any] = json.loads(file.read(length))
    shard = _Shard(path, json.loads(header.pop("__metadata__")["crc32"]))
    found: dict[str, list[_Place]] = {}
    end = 0
    for full_name, info in header.items():
        key, _, name = full_name.rpartition(".")
        begin, end_of_this = info["data_offsets"]
        end = max(end, end_of_this)
        dtype, shape = DTYPES[info["dtype"]], tuple(info["shape"])
        if end_of_this - begin != dtype.itemsize * torch.Size(shape).numel():
            raise ValueError("sizes in its header contradict each other")
        start = 8 + length
        found.setdefault(key, []).append(_Place(name, dtype, shape, start + begin, start + end_of_this))
    if 8 + length + end != size:
        raise ValueError(f"has {size} bytes where its header tells {8 + length + end}")
    return {key: (shard, tuple(places)) for key, places in found.items()}


def _cannot_write(path: Path, need: int, error: Exception) -> RunError:
    # safetensors reports a full disk only in words.
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    if not full:
        return RunError(f"{path}: the cache cannot be written: {error}")
    free = shutil.disk_usage(path.parent).free
    return RunError(
        f"{path}: the disk is full: {need:,} bytes to write, {free:,} free. What is cached already stays valid; make "
        "room or set data.cache_dir to another disk, and start again."
    )


class _OpenFiles:
    """The latest files, kept mapped into memory: opening costs more than reading an entry."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[Path, NDArray[np.uint8]] = OrderedDict()

    def get(self, path: Path) -> NDArray[np.uint8]:
        """The bytes of a file. Who holds them may go on reading when the file is closed here. Raises RunError."""
        with self._lock:
            content = self._files.pop(path, None)
            if content is None:
                content = _mapped(path)
            self._files[path] = content
            while len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
            return content

    def close(self, path: Path) -> None:
        with self._lock:
            self._files.pop(path, None)


def _mapped(path: Path) -> NDArray[np.uint8]:
    try:
        with path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:  # ValueError: the file is empty by now
        raise RunError(f"{path}: this part of the cache cannot be read: {error}. Start again.") from error
