"""Hashes of files and weights: what the cache's keys are made of."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.data.cache.ahead import in_order
from trainer.data.pictures.files import BrokenImageError
from trainer.errors import RunError
from trainer.files import atomic

# A file that was changed this shortly before it was hashed may change again without a new time stamp.
SETTLED = 2_000_000_000  # nanoseconds


def digest(*parts: Any) -> str:
    """A key of 32 hexadecimal digits for anything that JSON can tell apart."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def of_module(module: nn.Module) -> str:
    """A hash of a network's weights, whatever device they are on."""
    total = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


class FileHashes:
    """Content hashes of files, remembered by size and time of change so that only changed files are read again."""

    def __init__(self, memory: Path | None = None) -> None:
        """`memory`: a JSON file that keeps them between runs. One that cannot be read counts as empty."""
        self._memory = memory
        self._known: dict[str, list[Any]] = _remembered(memory)  # path -> [size, time of change, hash]
        self._changed = False

    def of(self, paths: Iterable[str], *, workers: int = 4) -> dict[str, str]:
        """The hash of each file. Raises BrokenImageError when one cannot be read."""
        wanted = sorted(set(paths))
        hashes = in_order(self._one, wanted, workers=workers, window=4 * workers)
        found = dict(zip(wanted, hashes, strict=True))
        self._save()
        return found

    def _one(self, path: str) -> str:
        try:
            status = Path(path).stat()
            stamp = [status.st_size, status.st_mtime_ns]
            known = self._known.get(path)
            if known is not None and known[:2] == stamp:
                return str(known[2])
            now = time.time_ns()
            with Path(path).open("rb") as file:
                found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError as error:
            raise BrokenImageError(path, f"cannot be read: {error.strerror or error}") from error
        if now - status.st_mtime_ns > SETTLED:
            self._known[path] = [*stamp, found]
            self._changed = True
        return found

    def _save(self) -> None:
        if self._memory is None or not self._changed:
            return
        # What another process has learned meanwhile is kept.
        text = json.dumps(_remembered(self._memory) | self._known)
        with contextlib.suppress(OSError, RunError):  # only a memory: without it the files are read again
            atomic.write_text(self._memory, text)
        self._changed = False


def _remembered(memory: Path | None) -> dict[str, list[Any]]:
    if memory is None:
        return {}
    try:
        known = json.loads(memory.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {path: entry for path, entry in known.items() if isinstance(entry, list) and len(entry) == 3}
