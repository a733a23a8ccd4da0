"""Looks at a config's images in a process of its own: `python -m ui.look CONFIG OUT` writes what the page shows.

The same report as `check` makes, and beside it every image with its crop, its captions and its problems.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer import config_io
from trainer.errors import UserError
from trainer.files.atomic import write_text

if TYPE_CHECKING:
    from trainer.reports.dataset import DatasetReport, Shown

PROGRESS = "progress "  # begins the lines that tell how far it is


class Caption(BaseModel):
    """A caption as it will be trained; `kept`: characters that reach the model, None where that is not known."""

    text: str
    tokens: int | None = None
    kept: int | None = None


class Picture(BaseModel):
    """One image as it will be trained. Sizes are width, height; `crop` is left, top, width, height in 0..1."""

    file: str
    caption_file: str  # where its caption is edited; "" when that is no text file of its own
    written: str  # the caption as it stands in the file
    original: tuple[int, int]
    bucket: tuple[int, int]
    crop: tuple[float, float, float, float]
    times: float  # an epoch
    captions: list[Caption]
    problems: list[str]
    subset: str

    @property
    def size_name(self) -> str:
        return f"{self.bucket[0]} x {self.bucket[1]}"


class Look(BaseModel):
    """What was found: the report for machines, and the images, those with problems first."""

    model_config = ConfigDict(extra="forbid")
    report: dict[str, Any]
    pictures: list[Picture]


def read(path: Path) -> Look | None:
    """A written look, None where there is none."""
    try:
        return _parsed(path, path.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=4)
def _parsed(path: Path, stamp: int) -> Look | None:
    try:
        return Look.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def pictures(report: DatasetReport) -> list[Picture]:
    found = [_picture(shown) for shown in report.shown]
    return sorted(found, key=lambda picture: not picture.problems)


def _picture(shown: Shown) -> Picture:
    item, view = shown.item, shown.view
    width, height = view.resized
    written = item.captions[0] if item.origin == "found" else ""
    return Picture(
        file=item.path,
        caption_file=_caption_file(item),
        written="\n".join(item.captions) if item.source.options.enable_wildcard and written else written,
        original=item.original,
        bucket=item.target,
        crop=(view.corner[0] / width, view.corner[1] / height, item.target[0] / width, item.target[1] / height),
        times=round(shown.times, 3),
        captions=[Caption(text=c.text, tokens=c.tokens, kept=c.kept) for c in dict.fromkeys(shown.captions)],
        problems=list(shown.problems),
        subset=item.source.where,
    )


def _caption_file(item: Any) -> str:
    """The text file with an image's caption, or where it would be; "" where captions come from JSON."""
    captions = importlib.import_module("trainer.data.captions")
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
    asked = config_io.read(config)
    scan = importlib.import_module("trainer.data.scan").scan
    check = importlib.import_module("trainer.build.check")
    scanned = scan(
        asked.datasets,
        asked.general,
        asked.data,
        config_dir=config.parent,
        keep_going=True,
        on_progress=_tell("reading"),
    )
    split = check.split_of(asked, scanned, scanned.rendering.cell)
    pace = check.pace_of(asked, check.Plan(split.training, asked.run.seed), 1)
    cutter, uncounted = check.token_counter(asked)
    notes = (*split.training.notes, *check.held_out_lines(asked, split), *uncounted)
    found = importlib.import_module("trainer.reports.dataset").examine(
        replace(split.training, notes=notes),
        seed=asked.run.seed,
        steps=pace.steps,
        batches_per_step=pace.accumulation,
        cutter=cutter,
        on_progress=_tell("looking at"),
    )
    content = Look(report=importlib.import_module("trainer.reports.dataset").to_json(found), pictures=pictures(found))
    write_text(out, content.model_dump_json())


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
