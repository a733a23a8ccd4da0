"""Looks at a config's images in a process of its own: `python -m ui.work.look CONFIG OUT` writes what the page shows.

The same report as `check` makes, and beside it every image with its crop, its captions and its problems.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.config import reading
from trainer.data.captions import files as captions
from trainer.errors import UserError
from trainer.files.atomic import write_text

if TYPE_CHECKING:
    from trainer.reports.dataset.findings import DatasetReport, Shown

PROGRESS = "progress "  # begins the lines that tell how far it is


class CaptionView(BaseModel):
    """A caption as it will be trained; `kept`: characters that reach the model, None where that is not known."""

    text: str
    tokens: int | None = None
    kept: int | None = None


class ImageView(BaseModel):
    """One image as it will be trained. Sizes are width, height; `crop` is left, top, width, height in 0..1."""

    file: str
    caption_file: str  # where its caption is edited; "" when that is no text file of its own
    written: str  # the caption as it stands in the file
    original: tuple[int, int]
    bucket: tuple[int, int]
    crop: tuple[float, float, float, float]
    times: float  # an epoch
    captions: list[CaptionView]
    problems: list[str]
    subset: str
    mask: str = ""  # the file of its loss mask

    @property
    def size_name(self) -> str:
        return f"{self.bucket[0]} x {self.bucket[1]}"


class DatasetLook(BaseModel):
    """What was found: the report for machines, and the images, those with problems first."""

    model_config = ConfigDict(extra="forbid")
    report: dict[str, Any]
    pictures: list[ImageView]


def read(path: Path) -> DatasetLook | None:
    """A written look, None where there is none."""
    try:
        return _parsed(path, path.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=4)
def _parsed(path: Path, stamp: int) -> DatasetLook | None:
    try:
        return DatasetLook.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def pictures(report: DatasetReport) -> list[ImageView]:
    found = [_picture(shown) for shown in report.shown]
    return sorted(found, key=lambda picture: not picture.problems)


def _picture(shown: Shown) -> ImageView:
    item, view = shown.item, shown.view
    width, height = view.resized
    written = item.captions[0] if item.origin == "found" else ""
    return ImageView(
        file=item.path,
        caption_file=_caption_file(item),
        written="\n".join(item.captions) if item.source.options.enable_wildcard and written else written,
        original=item.original,
        bucket=item.target,
        crop=(view.corner[0] / width, view.corner[1] / height, item.target[0] / width, item.target[1] / height),
        times=round(shown.times, 3),
        captions=[CaptionView(text=c.text, tokens=c.tokens, kept=c.kept) for c in dict.fromkeys(shown.captions)],
        problems=list(shown.problems),
        subset=item.source.where,
        mask=item.mask,
    )


def _caption_file(item: Any) -> str:
    """The text file with an image's caption, or where it would be; "" where captions come from JSON."""
    image = Path(item.path)
    if getattr(item.source.options, "metadata_file", ""):
        return ""
    names = {p.name for p in (image.with_suffix(e) for e in (".txt", ".caption", ".json")) if p.is_file()}
    extension = item.source.options.caption_extension
    wanted = captions.extensions(extension)
    found = captions.find(image.name, names, extension)
    name = found[0] if found else image.stem + wanted[0]
    return "" if name.endswith(".json") or (not found and f"{image.stem}.json" in names) else str(image.parent / name)


def look(config: Path, out: Path) -> None:
    """Raises UserError as `check` does."""
    asked = reading.read(config)  # before imports that take seconds
    from trainer.assembly.subject import subject_of
    from trainer.reports.dataset.findings import examine, to_json

    subject = subject_of(asked, config_dir=config.parent, on_progress=_tell("reading"))
    found = examine(
        subject.training,
        seed=asked.run.seed,
        steps=subject.pace.steps,
        batches_per_step=subject.pace.accumulation,
        cutter=subject.cutter,
        token_limit=subject.token_limit,
        on_progress=_tell("looking at"),
    )
    write_text(out, DatasetLook(report=to_json(found), pictures=pictures(found)).model_dump_json())


def _tell(what: str) -> Any:
    def tell(done: int, total: int) -> None:
        if done == total or done % 10 == 0:
            print(f"{PROGRESS}{json.dumps([what, done, total])}", flush=True)

    return tell


def main(arguments: list[str]) -> int:
    try:
        look(Path(arguments[0]), Path(arguments[1]))
    except UserError as error:
        print(*error.problems, sep="\n", flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
