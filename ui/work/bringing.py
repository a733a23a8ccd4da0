"""Brings images, captions and zips of them into a folder of the workspace: first as a plan, then as files.

What comes from a browser may be anything: names become plain ones, nothing is overwritten, archives are read with
limits on what they hold, and links in them or in the folder lead nowhere.
"""

from __future__ import annotations

import contextlib
import io
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from PIL import Image

from trainer.data.pictures.files import DAMAGED, EXTENSIONS
from trainer.errors import UserError
from ui.workspace import PASSED_OVER, Workspace

CAPTIONS = (".txt", ".caption")
MOST_FILES = 20_000
MOST_FILE = 100 * 1024**2  # bytes of one image
MOST_CAPTION = 200_000  # bytes
MOST_WHOLE = 8 * 1024**3  # bytes of all that is written at once
MOST_PIXELS = 150_000_000
TOO_LARGE = "has too many pixels"
HEADER = 1024**2  # bytes of an image from which its size is read
LONGEST = 120  # characters of a name
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
NOT_PLAIN = re.compile(r"[^\w .()+-]")


@dataclass(frozen=True)
class Incoming:
    """One file: in an archive where `inside` is its place there."""

    source: Path
    inside: str
    name: str  # in the folder
    size: int

    def content(self) -> bytes:
        """Raises UserError where it is not what it said it was."""
        with _reading(self) as file:
            found = file.read(_most(self.name) + 1)
        if len(found) > _most(self.name):
            raise UserError(f"{self.name}: is larger than it said, so it is not unpacked.")
        return found


@dataclass
class Plan:
    """`refused`: (what it is called where it comes from, why)."""

    folder: Path
    files: list[Incoming] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def target(workspace: Workspace, folder: str) -> Path:
    """A folder of the workspace, which may be new. Raises UserError for a place anywhere else."""
    parts = [part for part in re.split(r"[\\/]+", folder.strip()) if part]
    absolute = folder.strip().startswith(("/", "\\", "~"))
    if absolute or not parts or len(parts) > 4 or any(_plain(part) != part or part in PASSED_OVER for part in parts):
        raise UserError(f"folder: found {folder!r}, expected a plain name such as photos or photos/cats.")
    place = workspace.root.joinpath(*parts)
    if not place.resolve().is_relative_to(workspace.root.resolve()) or (place.exists() and not place.is_dir()):
        raise UserError(f"folder: {folder!r} does not lie in {workspace.root}.")
    return place


def plan(workspace: Workspace, sources: Sequence[Path], folder: str) -> Plan:
    """What would be written, and what not and why. Raises UserError where the folder is no good."""
    made = Plan(target(workspace, folder))
    taken = {p.name.casefold() for p in made.folder.iterdir()} if made.folder.is_dir() else set()
    for source in sources:
        for incoming in _offered(source, made):
            _take(incoming, made, taken)
    return made


def _offered(source: Path, made: Plan) -> Iterator[Incoming]:
    if not source.is_file():
        made.refused.append((source.name, "is no file"))
        return
    if source.suffix.lower() != ".zip":
        yield Incoming(source, "", source.name, source.stat().st_size)
        return
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        made.refused.append((source.name, "is no zip that can be read"))
        return
    if len(entries) > MOST_FILES:
        made.refused.append((source.name, f"holds {len(entries):,} files, more than {MOST_FILES:,}"))
        return
    for entry in entries:
        if entry.is_dir() or entry.filename.startswith("__MACOSX/"):
            continue
        if stat.S_ISLNK(entry.external_attr >> 16):
            made.refused.append((entry.filename, "is a link"))
        elif entry.flag_bits & 1:
            made.refused.append((entry.filename, "has a password"))
        else:
            yield Incoming(
                source, entry.filename, PurePosixPath(entry.filename.replace("\\", "/")).name, entry.file_size
            )


def _take(incoming: Incoming, made: Plan, taken: set[str]) -> None:
    name = _plain(incoming.name)
    why = _refusal(incoming, name, made, taken)
    if why:
        made.refused.append((incoming.inside or incoming.name, why))
        return
    taken.add(name.casefold())
    made.files.append(Incoming(incoming.source, incoming.inside, name, incoming.size))


def _refusal(incoming: Incoming, name: str, made: Plan, taken: set[str]) -> str:
    """Why a file is not taken, "" where it is."""
    suffix = Path(name).suffix.lower()
    if suffix not in (*EXTENSIONS, *CAPTIONS):
        return "is neither an image nor a caption"
    if name.casefold() in taken:
        return f"{name} is there already"
    if len(made.files) >= MOST_FILES or made.size + incoming.size > MOST_WHOLE:
        return "is too much at once"
    if incoming.size > _most(name):
        return f"is too large ({incoming.size / 1e6:.0f} MB)"
    try:
        return _caption_refusal(incoming) if suffix in CAPTIONS else _image_refusal(incoming)
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError):
        return "cannot be read"


def _caption_refusal(incoming: Incoming) -> str:
    with _reading(incoming) as file:
        content = file.read(MOST_CAPTION + 1)
    if len(content) > MOST_CAPTION:
        return "is too long for a caption"
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "is no text in UTF-8"
    return "" if b"\0" not in content else "is no text"


def _image_refusal(incoming: Incoming) -> str:
    """Looks at the header alone."""
    with _reading(incoming) as file:
        header = file.read(HEADER)
    try:
        with Image.open(io.BytesIO(header)) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return TOO_LARGE
    except (*DAMAGED, OSError):
        return "is no image that can be read"
    return TOO_LARGE if width * height > MOST_PIXELS else ""


def _most(name: str) -> int:
    return MOST_CAPTION if Path(name).suffix.lower() in CAPTIONS else MOST_FILE


@contextlib.contextmanager
def _reading(incoming: Incoming) -> Iterator[IO[bytes]]:
    if not incoming.inside:
        with incoming.source.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(incoming.source) as archive, archive.open(incoming.inside) as inner:
        yield inner


def _plain(name: str) -> str:
    """A name that is one everywhere, with the same ending."""
    stem, suffix = Path(name).stem, Path(name).suffix
    cleaned = NOT_PLAIN.sub("_", stem)[:LONGEST].strip(" .") or "unnamed"
    cleaned = f"_{cleaned}" if RESERVED.fullmatch(cleaned) else cleaned
    return cleaned + NOT_PLAIN.sub("_", suffix).rstrip(" .")


def write(made: Plan) -> int:
    """Writes what was planned; returns how many files. Raises UserError, and what was written stays."""
    made.folder.mkdir(parents=True, exist_ok=True)
    for incoming in made.files:
        try:
            content = incoming.content()
            with (made.folder / incoming.name).open("xb") as file:  # never over another one, nor through a link
                file.write(content)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(f"{incoming.name}: could not be written ({error}).") from None
    return len(made.files)
