"""Edits of captions that are tags: each takes a caption and gives it back changed, tags single and in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from trainer.data.captions.tags import join, tags_of
from trainer.errors import UserError

Edit = Literal["add", "first", "remove", "replace", "sort", "deduplicate"]
SEPARATOR = ","


def added(caption: str, tag: str) -> str:
    """With a tag at its end, unless it has it."""
    tags = tags_of(caption, SEPARATOR)
    return caption if tag in tags else _joined([*tags, tag])


def with_first(caption: str, tag: str) -> str:
    """With a tag at its beginning."""
    return _joined([tag, *(other for other in tags_of(caption, SEPARATOR) if other != tag)])


def replaced(caption: str, old: str, new: str) -> str:
    """With a tag replaced, or dropped where `new` is empty."""
    tags = tags_of(caption, SEPARATOR)
    return _joined([new if tag == old else tag for tag in tags]) if old in tags else caption


def in_order(caption: str, first: str = "") -> str:
    """With its tags in the order of the alphabet, `first` before all others where it has it."""
    return _joined(sorted(tags_of(caption, SEPARATOR), key=lambda tag: (tag != first, tag.casefold(), tag)))


def distinct(caption: str) -> str:
    """With each tag once, where it stood first; unchanged where that is so already."""
    tags = tags_of(caption, SEPARATOR)
    return caption if len(set(tags)) == len(tags) else _joined(tags)


def _joined(tags: list[str]) -> str:
    return join(list(dict.fromkeys(tag for tag in tags if tag)), SEPARATOR)


def edit_of(kind: str, tag: str, new: str = "") -> tuple[str, Callable[[str], str]]:
    """(what it does in words, the edit). Raises UserError for a kind that is none, and where a tag is missing."""
    tag, new = tag.strip(), new.strip()
    if any("\n" in text or SEPARATOR in text for text in (tag, new)):
        raise UserError("tag: one at a time, without commas or line ends.")
    if not tag and kind not in ("sort", "deduplicate"):
        raise UserError("tag: write it first.")
    if kind == "replace" and not new:
        raise UserError("replace by: write the new tag; “remove” drops one.")
    edits: dict[str, tuple[str, Callable[[str], str]]] = {
        "add": (f"added {tag!r}", lambda text: added(text, tag)),
        "first": (f"put {tag!r} first", lambda text: with_first(text, tag)),
        "remove": (f"removed {tag!r}", lambda text: replaced(text, tag, "")),
        "replace": (f"replaced {tag!r} by {new!r}", lambda text: replaced(text, tag, new)),
        "sort": ("sorted the tags", lambda text: in_order(text, tag)),
        "deduplicate": ("left each tag once", distinct),
    }
    if kind not in edits:
        raise UserError(f"edit: found {kind!r}, expected {', '.join(edits)}.")
    return edits[kind]
