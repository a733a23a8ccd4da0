"""The one way this project writes files: temporary name beside the target, fsync, validate, rename, fsync the folder.

A reader sees the old artefact or the new one, never a half, after a power cut too; a failed write leaves the old one.
What a killed process leaves behind has a name of its own and is removed by `tidy`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

Writer = Callable[[Path], object]

PARTIAL = ".partial-"  # what such names begin with
_OLD = "old-"
_OF_SAFETENSORS = re.compile(r"\.tmp[A-Za-z0-9]{6}")  # what it writes to first, beside the file that it was told
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # file systems that cannot sync a folder say so


def write_file(target: Path, write: Writer, *, validate: Writer | None = None, need: int = 0) -> None:
    """Replaces `target` by what `write(temporary_path)` makes there, once `validate(temporary_path)` did not raise.

    need: the bytes that are expected; nothing is begun where they are not free. Raises OSError; that of a full disk
    tells what was needed and what is free.
    """
    _replace(target, write, validate, need)


def write_folder(target: Path, write: Writer, *, validate: Writer | None = None, need: int = 0) -> None:
    """The same for a folder: `write(temporary_path)` fills an empty one. An older `target` goes last."""

    def fill(temporary: Path) -> None:
        temporary.mkdir()
        write(temporary)

    _replace(target, fill, validate, need)


def write_text(target: Path, text: str) -> None:
    write_file(target, lambda path: path.write_bytes(text.encode("utf-8")))


def tidy(folder: Path) -> None:
    """Removes what interrupted writes left in a folder, and gives back its name to a folder that had stepped aside.

    Only for a folder that no other process writes to.
    """
    for leftover in sorted(folder.glob(f"{PARTIAL}*")):
        rest = leftover.name.removeprefix(PARTIAL).partition("-")[2]
        target = leftover.with_name(rest.removeprefix(_OLD))
        if rest.startswith(_OLD) and not target.exists():
            leftover.replace(target)
        else:
            _remove(leftover)
    for leftover in of_safetensors(folder):
        _remove(leftover)
    if folder.is_dir():
        _sync_folder(folder)


def of_safetensors(folder: Path) -> list[Path]:
    """Files that its library began to write in a folder, before it would have given them their names."""
    return [path for path in folder.glob(".tmp*") if _OF_SAFETENSORS.fullmatch(path.name) and path.is_file()]


def remove(path: Path) -> None:
    """Takes a file or folder away at once: what is not deleted of it then is a leftover for `tidy`. Raises OSError."""
    aside = _temporary(path)
    path.replace(aside)
    _remove(aside)


def size_text(count: float) -> str:
    """1536 -> 1.5 KB"""
    units = ["bytes", "KB", "MB", "GB", "TB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.0f} bytes" if units[0] == "bytes" else f"{count:.1f} {units[0]}"


def _replace(target: Path, write: Writer, validate: Writer | None, need: int) -> None:
    temporary = _temporary(target)
    try:
        _make_folder(target.parent)
        if need and need > _free(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        write(temporary)
        _sync_tree(temporary)
        if validate is not None:
            validate(temporary)
        _rename(temporary, target)
    except BaseException as error:
        told = _told(error, target, need)  # before room is made again
        _remove(temporary)
        if told is error:
            raise
        raise told from error


def _temporary(target: Path, mark: str = "") -> Path:
    # The suffix stays last: writers such as Pillow choose the format by it.
    return target.with_name(f"{PARTIAL}{secrets.token_hex(4)}-{mark}{target.name}")


def _rename(temporary: Path, target: Path) -> None:
    if not target.is_dir():
        _retry(lambda: temporary.replace(target))
        _sync_folder(target.parent)
        return
    # Folders cannot be replaced in one call: the old one steps aside first and goes when the new one is in place.
    aside = _temporary(target, _OLD)
    _retry(lambda: target.replace(aside))
    try:
        _retry(lambda: temporary.replace(target))
        _sync_folder(target.parent)
    except BaseException:
        if not target.exists():
            aside.replace(target)
        raise
    _remove(aside)


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


def _make_folder(path: Path) -> None:
    """With its parents, each of them durable."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync_folder(path.parent)


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
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _free(target: Path) -> int:
    """Bytes that can still be written beside the target."""
    folder = target.parent
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _told(error: BaseException, target: Path, need: int) -> BaseException:
    """An error of the operating system as such, with what is needed and what is free where the disk is full."""
    if not isinstance(error, OSError):
        # Libraries written in Rust, as safetensors and tokenizers are, raise errors of their own with this text.
        hidden = re.search(r"\(os error (\d+)\)", str(error))
        if hidden is None:
            return error
        error = OSError(int(hidden[1]), os.strerror(int(hidden[1])), str(target))
    if error.errno not in _FULL:
        return error
    wanted = f"{size_text(need)} needed, " if need else ""
    where = f"{wanted}{size_text(_free(target))} free in {target.parent}"
    return OSError(error.errno, f"{error.strerror or 'no space left'}: {where}", str(target))
