"""Paths of the config: how they were written, and what is said of one that leads nowhere."""

from __future__ import annotations

import difflib
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from pydantic import BaseModel

from trainer.config.schema.base import Wanted, extra
from trainer.errors import UserError

MOST_NAMES = 10_000  # of a folder, that are compared with a name
_WORDS = {"file": "file", "folder": "folder", "either": "file or folder", "base": "file or folder"}
_PROMPT_FILE = re.compile(r" --([im]) +(.+?)(?= --|\s*$)")  # a picture to fill in, its mask
_DRIVE = re.compile(r"([A-Za-z]):[\\/]")


class WrittenPath(str):
    """A path made absolute that still knows how it was written, and the folder that it was relative to."""

    written: str
    directory: Path

    @classmethod
    def of(cls, path: str, written: str, directory: Path) -> WrittenPath:
        found = cls(path)
        found.written, found.directory = written, directory
        return found


def absolute(written: str, directory: Path) -> WrittenPath:
    """Raises OSError, ValueError or RuntimeError for what cannot be a path."""
    return WrittenPath.of(str((directory / Path(written).expanduser()).resolve()), written, directory)


def prompt_with_files(prompt: str, directory: Path) -> str:
    """A prompt whose flags name files, with these made absolute."""
    return _PROMPT_FILE.sub(lambda found: f" --{found[1]} {absolute(found[2], directory)}", prompt)


def looks_like_path(value: str) -> bool:
    """Whether a base that is not there was meant as a file or folder rather than a hub id such as owner/name."""
    suffix = Path(value).suffix.lower() in {".safetensors", ".ckpt", ".pt", ".pth", ".bin"}
    return suffix or value.startswith((".", "~", "/")) or "\\" in value or value.count("/") != 1


def named(path: str) -> str:
    """A path for a message, once: as it was written, with the folder that it is relative to."""
    written = path.written if isinstance(path, WrittenPath) else path
    if isinstance(path, WrittenPath) and not Path(written).expanduser().is_absolute():
        return f"{written!r} (relative to {path.directory}, where the config file lies)"
    return repr(str(path))


def problem(key: str, path: str, wanted: Wanted, directory: Path | None = None) -> str:
    """The line about a path that is not there, or not of the kind that is wanted; "" for a good one.

    directory: what a path that was not read from a config is relative to.
    """
    try:
        found = path if isinstance(path, WrittenPath) or directory is None else absolute(path, directory)
        there = Path(found)
        if there.is_dir() if wanted == "folder" else there.is_file() if wanted == "file" else there.exists():
            return ""
        if wanted == "base" and not looks_like_path(path):
            return ""
        if there.exists():
            other = "a folder, not a file" if there.is_dir() else "a file, not a folder"
            return f"{key}: {named(found)} is {other}."
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, the home of nobody
        return f"{key}: {path!r} cannot be looked at ({error})."
    return f"{key}: {_foreign(found) or f'there is no {_WORDS[wanted]} {named(found)}.{near(found)}'}"


def need(key: str, path: str, wanted: Wanted, directory: Path | None = None) -> None:
    """Raises UserError unless the path is there."""
    if line := problem(key, path, wanted, directory):
        raise UserError(line)


def _foreign(path: str) -> str:
    """Of a path that another system writes so; "" for any other."""
    written = path.written if isinstance(path, WrittenPath) else path
    if os.name == "nt" or ("\\" not in written and not _DRIVE.match(written)):
        return ""
    told = f"'{written}' is written as on Windows, and this is {platform.system()}"
    if drive := _DRIVE.match(written):
        rest = PureWindowsPath(written).as_posix()[len(drive[0]) :]
        return f"{told}: write it as this machine has it (in WSL it may be '/mnt/{drive[1].lower()}/{rest}')."
    return f"{told}: folders have / between them here: '{written.replace(chr(92), '/')}'."


def near(path: str) -> str:
    """What is called much like the first part of the path that is missing, or where it would have to be."""
    there = Path(path)
    above = next((folder for folder in there.parents if folder.is_dir()), None)
    if above is None:
        return ""
    missing = there.relative_to(above).parts[0]
    try:
        names = sorted(os.listdir(above))[:MOST_NAMES]  # noqa: PTH208
    except OSError:
        return ""
    stems = {Path(name).stem: name for name in reversed(names)}  # most files here end alike
    if found := difflib.get_close_matches(Path(missing).stem, stems, n=1, cutoff=0.75):
        return f" Did you mean {stems[found[0]]!r}, which is there?"
    return "" if above == there.parent else f" There is no {missing!r} in {above.name or above}."


def in_the_way(folder: Path) -> str:
    """Why a run cannot make a folder, or write to it; "" where it can."""
    there = next((path for path in (folder, *folder.parents) if path.exists() or path.is_symlink()), folder)
    it = "it" if there == folder else str(there)
    if there.is_dir():
        return "" if os.access(there, os.W_OK | os.X_OK) else f"nothing can be written to {it}"
    return f"{it} is a file, not a folder" if there.exists() else f"{it} is a link to nothing"


def paths_of(section: BaseModel, place: str = "") -> Iterator[tuple[str, str, Wanted]]:
    """(dotted key, path, what must be there) of every path that a config names."""
    for name, field in type(section).model_fields.items():
        value, here = getattr(section, name), f"{place}{name}"
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, BaseModel):
                yield from paths_of(child, f"{here}[{index}]." if isinstance(value, list) else f"{here}.")
        wanted = extra(field).get("path")
        if wanted and value and isinstance(value, str):
            yield here, value, wanted
