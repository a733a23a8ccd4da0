"""Finds the loss masks of a subset: pictures of the same name in another folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

from trainer.data.folder_source import image_names, join, listing
from trainer.data.images import listed, printable
from trainer.errors import UserError


def masks(folder: Path, images: Sequence[str], where: str) -> tuple[dict[str, str], list[str]]:
    """The mask file of each image (both as paths), and what a person should know.

    `where`: the config key, for messages. Raises UserError when an image has no mask, as kohya's scripts do.
    """
    by_stem: dict[str, str] = {}
    for name in image_names(listing(folder, where)):
        by_stem.setdefault(PurePath(name).stem, name)
    found = {path: by_stem[stem] for path in images if (stem := PurePath(path).stem) in by_stem}
    without = [PurePath(path).name for path in images if path not in found]
    if without:
        raise UserError(
            f"{where}: {len(without)} of {len(images)} images have no mask of the same name in {printable(folder)}: "
            f"{listed(without)}"
        )
    used = set(found.values())
    unused = [name for name in by_stem.values() if name not in used]
    notes = [f"{where}: {len(unused)} masks belong to no image: {listed(unused)}"] if unused else []
    return {path: join(folder, name) for path, name in found.items()}, notes
