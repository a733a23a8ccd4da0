"""What the command `captions` does: shows or makes changes of all captions in a folder, and takes them back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.data.captions import files
from trainer.data.captions.bulk import Change, Editor, changes
from trainer.data.captions.edits import SEPARATOR, edit_of, in_order
from trainer.data.captions.tags import tags_of
from trainer.data.sources.folder import image_names, listing
from trainer.errors import UserError
from trainer.journal.console import Console

STATE = ".captions"  # inside the folder: the way back
SHOWN = 10  # changes before they are made


def change(folder: Path, asked: Sequence[tuple[str, str]], *, having: str, extension: str, apply: bool) -> None:
    """asked: kinds of edits with their tags, in order. Raises UserError."""
    what, edit = _all(asked)
    there = _captions(folder, extension)

    def chosen(text: str) -> str:
        return "\n".join(_if(line, edit, having) for line in text.split("\n"))  # several lines are alternatives

    making = any(kind in ("add", "first") for kind, _ in asked) and not having
    wanted = changes(there, chosen, new=making)
    for line in _lines(wanted, len(there), apply=apply):
        Console().say(line)
    if apply:
        Editor(folder / STATE).write(what, wanted)


def _if(line: str, edit: Callable[[str], str], having: str) -> str:
    return edit(line) if not having or having in tags_of(line, SEPARATOR) else line


def undo(folder: Path) -> None:
    Console().say(Editor(folder / STATE).undo())


def _all(asked: Sequence[tuple[str, str]]) -> tuple[str, Callable[[str], str]]:
    """All edits as one, and what it does in words."""
    if not asked:
        raise UserError("nothing to change: give --remove, --replace, --add, --first, --deduplicate or --sort.")
    steps = [edit_of(kind, *_words(kind, tag)) for kind, tag in asked if kind != "sort"]
    leading = [tag.strip() for kind, tag in asked if kind == "first"]
    sorts = any(kind == "sort" for kind, _ in asked)

    def edit(text: str) -> str:
        for _, step in steps:
            text = step(text)
        return _sorted(text, leading) if sorts else text

    return ", ".join([*(told for told, _ in steps), *(["sorted the tags"] if sorts else [])]), edit


def _sorted(text: str, leading: Sequence[str]) -> str:
    """In the order of the alphabet, behind the tags that were put first."""
    ordered = in_order(text)
    for tag in leading:
        ordered = edit_of("first", tag)[1](ordered)
    return ordered


def _words(kind: str, tag: str) -> tuple[str, str]:
    if kind != "replace":
        return tag, ""
    old, sign, new = tag.partition("=")
    if not sign:
        raise UserError(f"--replace: found {tag!r}, expected OLD=NEW.")
    return old, new


def _captions(folder: Path, extension: str) -> list[Path]:
    """The caption file of each image, where it is or would be. Raises UserError."""
    there = listing(folder, "captions", str(folder))
    images = image_names(there)
    if not images:
        raise UserError(f"captions: no images in {folder}.")
    usual = files.extensions(extension)[0]
    return [folder / (files.find(name, there, extension) or [Path(name).stem + usual])[0] for name in images]


def _lines(wanted: Sequence[Change], count: int, *, apply: bool) -> list[str]:
    done = "changed" if apply else "would change"
    shown = [
        f"{change.file.name}: {(change.before or '').strip()!r} -> {(change.after or '').strip()!r}"
        for change in wanted[:SHOWN]
    ]
    rest = [f"... and {len(wanted) - SHOWN} more"] if len(wanted) > SHOWN else []
    way = "take it back with --undo" if apply else "add --apply to do it"
    return [*shown, *rest, f"{len(wanted)} of {count} captions {done}" + (f"; {way}" if wanted else "")]
