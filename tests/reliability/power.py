"""What a disk may hold after a power cut: all that was synced, and of the rest anything.

Data of a file that was written since its last fsync is kept, lost, cut off, or replaced by zeros or noise, each write
for itself. Names that were made, changed or removed since the last fsync of their folder are so or not, one by one;
only a rename is never half done.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class File:
    live: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    since: list[tuple[int, bytes]] = field(default_factory=list)  # (offset, data)

    def write(self, offset: int, data: bytes) -> None:
        _put(self.live, offset, data)
        self.since.append((offset, data))

    def sync(self) -> None:
        self.synced, self.since = bytes(self.live), []

    def after_cut(self, luck: random.Random) -> bytes:
        content = bytearray(self.synced)
        for offset, data in self.since:
            match luck.choice(("kept", "lost", "cut", "zeros", "noise")):
                case "kept":
                    _put(content, offset, data)
                case "cut":
                    _put(content, offset, data[: luck.randrange(len(data) + 1)])
                case "zeros":
                    _put(content, offset, bytes(len(data)))
                case "noise":
                    _put(content, offset, luck.randbytes(len(data)))
        return bytes(content)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


Entries = dict[str, "File | Folder"]
Change = Callable[[Entries], object]


@dataclass
class Folder:
    live: Entries = field(default_factory=dict)
    synced: Entries = field(default_factory=dict)
    since: list[Change] = field(default_factory=list)

    def change(self, change: Change) -> None:
        change(self.live)
        self.since.append(change)

    def sync(self) -> None:
        self.synced, self.since = dict(self.live), []

    def after_cut(self, luck: random.Random) -> Entries:
        entries = dict(self.synced)
        for change in self.since:
            if luck.random() < 0.5:
                change(entries)
        return entries


class Ledger:
    """Writes down every call, in order; a mark says what has been acknowledged by then."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries: list[tuple[str, str, Any]] = []

    def before(self, kind: str, path: str, detail: Any = None) -> Any:
        return detail

    def after(self, kind: str, path: str, detail: Any = None) -> None:
        self.entries.append((kind, os.path.relpath(path, self.root), detail))

    def mark(self, what: Any) -> None:
        self.entries.append(("mark", "", what))

    def cut(self, at: int, luck: random.Random, target: Path) -> list[Any]:
        """Makes `target` what the root is after a power cut behind so many calls; returns the marks before it."""
        root, marks = Folder(), []
        for kind, path, detail in self.entries[:at]:
            if kind == "mark":
                marks.append(detail)
            else:
                _replay(root, kind, Path(path), detail, self.root)
        _materialise(root, luck, target)
        return marks


def _replay(root: Folder, kind: str, path: Path, detail: Any, top: Path) -> None:
    parent, name = _find(root, path.parent), path.name
    assert isinstance(parent, Folder)
    match kind:
        case "open":
            new: File | Folder = File()
            parent.change(lambda entries: entries.__setitem__(name, new))
        case "mkdir":
            folder = Folder()
            parent.change(lambda entries: entries.__setitem__(name, folder))
        case "write":
            file = parent.live[name]
            assert isinstance(file, File)
            file.write(*detail)
        case "fsync":
            _find(root, path).sync()
        case "unlink" | "rmdir":
            parent.change(lambda entries: entries.pop(name, None))
        case "replace":
            moved, other = parent.live[name], Path(os.path.relpath(detail, top))
            assert other.parent == path.parent

            def rename(entries: Entries) -> None:
                entries.pop(name, None)
                entries[other.name] = moved

            parent.change(rename)
        case _:
            raise AssertionError(kind)


def _find(root: Folder, path: Path) -> File | Folder:
    found: File | Folder = root
    for part in path.parts:
        assert isinstance(found, Folder)
        found = found.live[part]
    return found


def _materialise(folder: Folder, luck: random.Random, target: Path) -> None:
    target.mkdir()
    for name, entry in folder.after_cut(luck).items():
        if isinstance(entry, File):
            (target / name).write_bytes(entry.after_cut(luck))
        else:
            _materialise(entry, luck, target / name)
