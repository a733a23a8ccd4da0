"""The one way this project writes files: temporary name beside the target, fsync, validate, rename, fsync the folder.

A reader sees the old artefact or the new one, never a half; a failed write leaves the old one and no litter.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

Writer = Callable[[Path], object]


def write_file(target: Path, write: Writer, *, validate: Writer | None = None) -> None:
    """Replaces `target` by what `write(temporary_path)` makes there, once `validate(temporary_path)` did not raise."""
    _replace(target, write, validate)


def write_folder(target: Path, write: Writer, *, validate: Writer | None = None) -> None:
    """The same for a folder: `write(temporary_path)` fills an empty one. An older `target` goes last."""

    def fill(temporary: Path) -> None:
        temporary.mkdir()
        write(temporary)

    _replace(target, fill, validate)


def write_text(target: Path, text: str) -> None:
    write_file(target, lambda path: path.write_bytes(text.encode("utf-8")))


def _replace(target: Path, write: Writer, validate: Writer | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as Pillow choose the format by it.
    temporary = target.with_name(f".partial-{secrets.token_hex(4)}-{target.name}")
    try:
        write(temporary)
        _sync_tree(temporary)
        if validate is not None:
            validate(temporary)
        _rename(temporary, target)
    except BaseException:
        _remove(temporary)
        raise
    _sync_folder(target.parent)


def _rename(temporary: Path, target: Path) -> None:
    if target.is_dir():
        # Folders cannot be replaced in one call: the old one steps aside first and goes when the new one is in place.
        aside = target.with_name(f".partial-{secrets.token_hex(4)}-old-{target.name}")
        _retry(lambda: target.replace(aside))
        _retry(lambda: temporary.replace(target))
        _remove(aside)
    else:
        _retry(lambda: temporary.replace(target))


def _retry(action: Callable[[], object], attempts: int = 5) -> None:
    """On Windows a virus scanner or viewer may hold the target for a moment."""
    for attempt in range(attempts):
        try:
            action()
            return
        except PermissionError:
            if os.name != "nt" or attempt == attempts - 1:
                raise
            time.sleep(0.1 * 2**attempt)


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for child in path.rglob("*"):
            if child.is_file():
                _sync_file(child)
        for folder in [*(c for c in path.rglob("*") if c.is_dir()), path]:
            _sync_folder(folder)
    else:
        _sync_file(path)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name == "nt":
        return  # Windows has no fsync of folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
