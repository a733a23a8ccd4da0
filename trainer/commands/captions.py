"""What the command `captions` does: shows or makes changes of all captions in a folder, and takes them back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data import tagging as tagging_of
from trainer.data.captions import files
from trainer.data.captions.bulk import Change, Editor, changes, read
from trainer.data.captions.edits import SEPARATOR, edit_of, in_order
from trainer.data.captions.tags import join, tags_of
from trainer.data.pictures.files import BrokenImageError
from trainer.data.sources.folder import image_names, listing
from trainer.data.tagging import Tagger, Wish
from trainer.errors import UserError
from trainer.journal.console import Console

STATE = ".captions"  # inside the folder: the way back
SHOWN = 10  # changes before they are made


@dataclass(frozen=True)
class Tagging:
    """What a tagger is asked for."""

    model: str
    wish: Wish
    append: bool  # to captions that are there; else only where there is none


def tagging(
    model: str,
    append: bool,
    general: float,
    character: float,
    without: Sequence[str],
    *,
    ratings: bool,
    underscores: bool,
) -> Tagging | None:
    """By the command line's words; None where no model is named. Raises UserError."""
    wish = Wish(general, character, ratings, tuple(without), underscores)
    if not model:
        if append or wish != Wish():
            raise UserError(
                "--append, --general, --character, --exclude, --ratings and --underscores go with --tag MODEL."
            )
        return None
    return Tagging(model, wish, append)


def change(
    folder: Path,
    asked: Sequence[tuple[str, str]],
    *,
    having: str,
    extension: str,
    apply: bool,
    tagging: Tagging | None = None,
) -> None:
    """asked: kinds of edits with their tags, in order; tagging: what is done before them. Raises UserError."""
    what, edit = _all(asked) if asked or tagging is None else ("", lambda text: text)
    there = _captions(folder, extension)

    def chosen(text: str) -> str:
        return "\n".join(_if(line, edit, having) for line in text.split("\n"))  # several lines are alternatives

    making = any(kind in ("add", "first") for kind, _ in asked) and not having
    if tagging is None:
        wanted = changes(there.values(), chosen, new=making)
    else:
        wanted = _tagged(folder, there, tagging, chosen)
        what = ", ".join(filter(None, (f"tagged with {Path(tagging.model).name}", what)))
    for line in _lines(wanted, len(there), apply=apply):
        Console().say(line)
    if apply:
        Editor(folder / STATE).write(what, wanted)


def _tagged(folder: Path, there: Mapping[str, Path], tagging: Tagging, edit: Callable[[str], str]) -> list[Change]:
    """What a tagger adds, and what the edits make of it."""
    tagger, found = tagging_of.opened(tagging.model), []
    with Console().counting("tagging images", "images") as told:
        for done, (name, file) in enumerate(there.items()):
            told(done, len(there))
            text = (read(file) or "").rstrip("\r\n")
            if text.strip() and not tagging.append:
                continue
            tags = _tags(tagger, folder / name, tagging.wish)
            found += changes([file], lambda text, tags=tags: edit(_with(text, tags)), new=True)  # type: ignore[misc]
        told(len(there), len(there))
    return found


def _tags(tagger: Tagger, picture: Path, wish: Wish) -> list[str]:
    try:
        return tagger.tags(picture, wish)
    except BrokenImageError as broken:
        raise UserError(f"{picture}: {broken.reason}") from None


def _with(text: str, tags: Sequence[str]) -> str:
    """Each line of a caption with the tags at its end, which it has not yet."""
    lines = [[*tags_of(line, SEPARATOR)] for line in text.split("\n")]
    return "\n".join(join([*line, *(tag for tag in tags if tag not in line)], SEPARATOR) for line in lines)


def _if(line: str, edit: Callable[[str], str], having: str) -> str:
    return edit(line) if not having or having in tags_of(line, SEPARATOR) else line


def undo(folder: Path) -> None:
    Console().say(Editor(folder / STATE).undo())


def _all(asked: Sequence[tuple[str, str]]) -> tuple[str, Callable[[str], str]]:
    """All edits as one, and what it does in words."""
    if not asked:
        raise UserError("nothing to change: give --remove, --replace, --add, --first, --deduplicate, --sort or --tag.")
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


def _captions(folder: Path, extension: str) -> dict[str, Path]:
    """The caption file of each image by its name, where it is or would be. Raises UserError."""
    there = listing(folder, "captions", str(folder))
    images = image_names(there)
    if not images:
        raise UserError(f"captions: no images in {folder}.")
    usual = files.extensions(extension)[0]
    return {name: folder / (files.find(name, there, extension) or [Path(name).stem + usual])[0] for name in images}


def _lines(wanted: Sequence[Change], count: int, *, apply: bool) -> list[str]:
    done = "changed" if apply else "would change"
    shown = [
        f"{change.file.name}: {(change.before or '').strip()!r} -> {(change.after or '').strip()!r}"
        for change in wanted[:SHOWN]
    ]
    rest = [f"... and {len(wanted) - SHOWN} more"] if len(wanted) > SHOWN else []
    way = "take it back with --undo" if apply else "add --apply to do it"
    return [*shown, *rest, f"{len(wanted)} of {count} captions {done}" + (f"; {way}" if wanted else "")]
