"""A folder of tensors under content keys, in safetensors files that are written once and never changed.

A shard is either there, whole, or not there: a killed process loses what it had not finished and damages nothing, and
several processes may write at the same time. Equal entries give equal files under equal names.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from trainer import atomic
from trainer.errors import RunError

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
        try:
            found = {place.name: self._tensor(shard, place) for place in places}
        except OSError as error:
            raise RunError(f"{shard.path}: this part of the cache cannot be read: {error}. Start again.") from error
        if key not in self._checked:
            if checksum(found[name] for name in sorted(found)) != shard.checksums.get(key):
                raise self._damaged(shard)
            self._checked.add(key)
        return found

    def _tensor(self, shard: _Shard, place: _Place) -> Tensor:
        tensor = torch.empty(place.shape, dtype=place.dtype)
        if place.end > place.begin:
            view = memoryview(_bytes(tensor)).cast("B")
            if not self._files.read_into(shard.path, place.begin, view):
                raise self._damaged(shard)
        return tensor

    def _damaged(self, shard: _Shard) -> RunError:
        self._files.close(shard.path)
        shard.path.unlink(missing_ok=True)
        return RunError(
            f"{shard.path}: this part of the cache was damaged on the disk, and has been removed. "
            "Start again: what it held is encoded anew."
        )


def checksum(tensors: Iterable[Tensor]) -> int:
    """CRC-32 over the bytes of tensors."""
    value = 0
    for tensor in tensors:
        value = zlib.crc32(_bytes(tensor), value)
    return value


def _bytes(tensor: Tensor) -> Any:
    """The memory of a contiguous tensor as a numpy array of bytes."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


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
    """The latest files, kept open: opening costs more than reading an entry."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[Path, int] = OrderedDict()

    def read_into(self, path: Path, begin: int, view: memoryview) -> bool:
        """Fills `view` from the file; whether it had that many bytes."""
        with self._lock:
            number = self._files.pop(path, None)
            if number is None:
                number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            self._files[path] = number
            while len(self._files) > OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            # Within the lock, so that no other thread closes the file meanwhile: the read is mostly a copy from memory.
            os.lseek(number, begin, os.SEEK_SET)
            done = 0
            while done < len(view):
                chunk = os.readv(number, [view[done:]]) if hasattr(os, "readv") else _read_into(number, view[done:])
                if chunk == 0:
                    return False
                done += chunk
            return True

    def close(self, path: Path) -> None:
        with self._lock:
            number = self._files.pop(path, None)
            if number is not None:
                os.close(number)

    def __del__(self) -> None:
        for number in self._files.values():
            os.close(number)


def _read_into(number: int, view: memoryview) -> int:
    """For Windows, which has no readv."""
    chunk = os.read(number, len(view))
    view[: len(chunk)] = chunk
    return len(chunk)
