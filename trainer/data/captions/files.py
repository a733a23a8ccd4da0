"""Finds and reads caption files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from trainer.errors import UserError
from trainer.files import ordinary

DEFAULT_EXTENSIONS = (".txt", ".caption")  # in order of preference when `caption_extension` is empty


def extensions(caption_extension: str) -> tuple[str, ...]:
    """The extensions to look for; kohya's users may leave out the dot."""
    if not caption_extension:
        return DEFAULT_EXTENSIONS
    return (caption_extension if caption_extension.startswith(".") else f".{caption_extension}",)


def find(image: str, files: Collection[str], caption_extension: str) -> list[str]:
    """The names of the caption files of an image, out of the names in its folder.

    They share the image's stem, or its stem without the last four parts between underscores: tools that cut out faces
    write centre and size there, and kohya's scripts look for the caption that way.
    """
    stem = Path(image).stem
    stems = [stem]
    parts = stem.split("_")
    if len(parts) >= 5:
        stems.append("_".join(parts[:-4]))
    for candidate in stems:
        found = [candidate + extension for extension in extensions(caption_extension) if candidate + extension in files]
        if found:
            return found
    return []


def read(path: Path) -> str:
    """The text of a caption file, UTF-8 with or without a byte order mark, any line ends.

    Raises UserError naming the file when it cannot be read or is not UTF-8.
    """
    try:
        return ordinary.text(path)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}). Save it as UTF-8."
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def lines(text: str) -> list[str]:
    """The lines that hold anything, without surrounding blanks."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def read_agreeing(folder: Path, names: list[str]) -> list[str]:
    """The lines of an image's caption. Raises UserError when there are several files that do not say the same."""
    texts = [lines(read(folder / name)) for name in names]
    for name, text in zip(names[1:], texts[1:], strict=True):
        if text != texts[0]:
            raise UserError(
                f"{folder / names[0]} and {folder / name} say different things. "
                "Remove one, or name the one to use by caption_extension."
            )
    return texts[0]
