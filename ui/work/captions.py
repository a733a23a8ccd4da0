"""The tags of many captions, and images that are dropped with theirs. Changes of captions are the trainer's own."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from trainer.data.captions.bulk import Change as Change
from trainer.data.captions.bulk import Editor as Editor
from trainer.data.captions.bulk import changes as changes
from trainer.data.captions.bulk import read as read
from trainer.data.captions.edits import SEPARATOR
from trainer.data.captions.tags import tags_of
from trainer.errors import UserError

REMOVED = "removed"  # the folder beside the images that takes dropped ones


def frequencies(captions: Iterable[str]) -> Counter[str]:
    return Counter(tag for caption in captions for tag in dict.fromkeys(tags_of(caption, SEPARATOR)))


def drop(image: Path, caption: Path | None) -> Path:
    """Moves an image and its caption into a folder beside it, where it no longer trains. Returns the new place."""
    folder = image.parent / REMOVED
    target = folder / image.name
    if target.exists():
        target = folder / f"{image.stem}-{secrets.token_hex(3)}{image.suffix}"
    try:
        folder.mkdir(exist_ok=True)
        image.replace(target)
        if caption is not None and caption.is_file():
            caption.replace(target.with_suffix(caption.suffix))
    except OSError as error:
        raise UserError(f"{image}: could not be moved ({error.strerror or error}).") from None
    return target
