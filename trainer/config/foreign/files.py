"""Finds and reads the files that another program's file names."""

from __future__ import annotations

import json
import struct
import tomllib
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.files import ordinary

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif")
MOST = 100_000_000  # bytes of a safetensors header


def found(folder: Path, name: str) -> Path | None:
    """The file or folder that a path in a file in `folder` means: relative to it, to a folder above it (where a program
    may have been started), else to the current folder."""
    whole = folder.resolve()
    for place in (whole, *whole.parents, Path()) if is_relative(name) else (Path(),):
        try:
            path = place / Path(name).expanduser()
            if path.exists():
                return path
        except (OSError, ValueError, RuntimeError):
            continue
    return None


def is_relative(path: str) -> bool:
    """On any system: C:\\x and /x are whole paths everywhere."""
    return not (path.startswith(("/", "\\", "~")) or path[1:3] in (":\\", ":/"))


def tables(path: Path, key: str) -> dict[str, Any]:
    """The content of a TOML or JSON file. Raises UserError that begins with the key."""
    try:
        text = ordinary.content(path).decode("utf-8-sig")
        content = json.loads(text) if text.lstrip().startswith(("{", "[")) and not _is_toml(text) else _toml(text)
    except OSError as error:
        raise UserError(f"{key}: {path} cannot be read ({error.strerror or error}).") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{key}: {path} is neither TOML nor JSON ({error}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{key}: {path} holds no tables.")
    return content


def with_images_below(folder: Path, name: str) -> list[str]:
    """A folder as it is named, and those below it that hold images now. Hidden ones are left out."""
    root = found(folder, name)
    if root is None or not root.is_dir():
        return [name]
    inner = sorted(path for path in root.rglob("*") if path.is_dir() and _has_images(path, root))
    return [*([name] if _has_images(root, root) or not inner else []), *map(str, inner)]


def holds(folder: Path, name: str, ending: str) -> bool:
    """Whether a folder, as it is named, has files that end so now."""
    root = found(folder, name)
    return root is not None and root.is_dir() and any(path.name.endswith(ending) for path in root.iterdir())


def _has_images(folder: Path, root: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in folder.relative_to(root).parts)
    return not hidden and any(path.suffix.lower() in IMAGES for path in folder.iterdir())


def json_list(path: Path) -> list[Any] | None:
    """The content of a JSON file that holds a list, None for any other file."""
    try:
        content = json.loads(ordinary.content(path).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, list) else None


def _toml(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def header(path: Path) -> dict[str, Any] | None:
    """The header of a safetensors file, with its metadata; None for any other file. Reads no weights."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= MOST:
                return None
            text = file.read(length)
        content = json.loads(text) if text[:1] == b"{" and len(text) == length else None
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
