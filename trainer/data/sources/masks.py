"""Finds the loss masks of a subset: pictures in another folder or beside its images, by names that programs give."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from trainer.data.pictures.files import listed, printable
from trainer.data.sources.folder import LABEL, image_names, join, listing
from trainer.errors import UserError

# Behind an image's name: OneTrainer's, and those of Segment Anything in A1111's web UI, <name>_<number>_mask.
ENDING = re.compile(rf"({re.escape(LABEL)}|(_\d+)?_mask)$")


def masks(folder: Path, images: Sequence[str], where: str, written: str = "") -> tuple[dict[str, str], list[str]]:
    """The mask file of each image (both as paths), and what a person should know.

    A mask has the image's name (sd-scripts, rembg), or that with an ending, or it is the only picture in a folder of
    that name (Segment Anything's own script). `where`: the config key, and `written`: the folder in its words, for
    messages. Raises UserError when an image has no mask, as kohya's scripts do, or several.
    """
    own = {*images}  # masks may lie beside the images
    there = _Pictures.of([n for n in image_names(listing(folder, where, written)) if join(folder, n) not in own])
    named = {path: there.of_image(PurePath(path).stem, folder) for path in images}
    problems = _problems(named, folder, where)
    if problems:
        raise UserError(problems)
    found = {path: names[0] for path, names in named.items()}
    unused = sorted({*there.names} - {*found.values()})
    notes = [f"{where}: {len(unused)} masks belong to no image: {listed(unused)}"] if unused else []
    return {path: join(folder, name) for path, name in found.items()}, notes


@dataclass(frozen=True)
class _Pictures:
    names: Sequence[str]
    plain: Mapping[str, list[str]]  # by their names without extension
    ended: Mapping[str, list[str]]  # and without the ending that says that they are masks

    @classmethod
    def of(cls, names: Sequence[str]) -> _Pictures:
        plain: dict[str, list[str]] = {}
        ended: dict[str, list[str]] = {}
        for name in names:
            stem = PurePath(name).stem
            plain.setdefault(stem, []).append(name)
            if ENDING.search(stem):
                ended.setdefault(ENDING.sub("", stem), []).append(name)
        return cls(names, plain, ended)

    def of_image(self, stem: str, folder: Path) -> list[str]:
        """The masks that an image of this name may mean; the first kind of name that is there counts."""
        if stem in self.plain:
            return self.plain[stem][:1]
        if stem in self.ended:
            return self.ended[stem]
        inside = folder / stem
        return [join(Path(stem), name) for name in image_names(listing(inside, "", ""))] if inside.is_dir() else []


def _problems(named: Mapping[str, list[str]], folder: Path, where: str) -> list[str]:
    without = [PurePath(path).name for path, names in named.items() if not names]
    several = {PurePath(path).name: names for path, names in named.items() if len(names) > 1}
    problems = []
    if without:
        problems.append(
            f"{where}: {len(without)} of {len(named)} images have no mask of the same name in {printable(folder)}: "
            f"{listed(without)}"
        )
    if several:
        first, names = next(iter(several.items()))
        problems.append(
            f"{where}: {len(several)} of {len(named)} images have several masks in {printable(folder)}, such as "
            f"{first}: {listed(names)}. Leave the one that is meant."
        )
    return problems
