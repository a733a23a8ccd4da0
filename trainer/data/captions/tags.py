"""Takes a caption apart into tags and puts it together again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parts:
    """The tags of a caption by what may happen to them."""

    fixed: list[str]  # stay in front
    flexible: list[str]  # may be shuffled and dropped
    suffix: list[str]  # stay at the end


def split(text: str, separator: str, keep: int, mark: str) -> Parts:
    """The first `keep` tags are fixed; or, where the text holds `mark`, those before it, and those after a second one
    close the caption. Empty tags vanish."""
    if mark and mark in text:
        front, _, rest = text.partition(mark)
        middle, _, end = rest.partition(mark)
        return Parts(tags_of(front, separator), tags_of(middle, separator), tags_of(end, separator))
    found = tags_of(text, separator)
    return Parts(found[:keep], found[keep:], [])


def tags_of(text: str, separator: str) -> list[str]:
    """The tags of a text; an empty separator leaves it whole."""
    return [tag.strip() for tag in (text.split(separator) if separator else [text]) if tag.strip()]


def join(tags: list[str], separator: str) -> str:
    """Tags with the separator they came with, and a blank behind it unless it is or ends in one."""
    return glue(separator).join(tags)


def glue(separator: str) -> str:
    return separator if separator[-1:].isspace() else f"{separator} "


def put_first(tag: str, text: str, separator: str) -> str:
    """The text with `tag` in front, and nowhere else as a tag of its own."""
    others = tags_of(text, separator)
    if tag not in others:
        return join([tag, text] if text.strip() else [tag], separator)
    if others[0] == tag and others.count(tag) == 1:
        return text
    return join([tag, *(other for other in others if other != tag)], separator)
