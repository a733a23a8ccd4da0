"""What `sample --per-class` does: draws so many pictures of each class into a folder, for programs that score them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.assembly import readiness
from trainer.commands.quiet import loading
from trainer.commands.sampling import trained
from trainer.config import paths, reading
from trainer.config.schema.base import changed
from trainer.config.schema.whole import BaseConfig
from trainer.data.sources.classes import class_names
from trainer.errors import UserError
from trainer.journal.console import Console
from trainer.samples import prompts
from trainer.samples.prompts import Request


@dataclass(frozen=True)
class Wanted:
    request: Request
    file: Path


def sample_classes(
    path: Path,
    overrides: Sequence[str],
    lora: Path | None,
    strength: float,
    count: int,
    batch: int,
    output: Path | None,
    partial: bool = False,
    embeddings: Sequence[Path] = (),
) -> Path:
    """Draws `count` pictures of each of model.classes, or of each prompt where there are none, `batch` at once.

    Their files, CLASS-00000.png and so on, lie flat in `output`, else in the run's folder. Those that are there already
    stay, so that a drawing that was broken off goes on; each has a seed of its own, whatever else is drawn. Raises
    UserError.
    """
    config = trained(reading.read(path, overrides))
    folder = output or Path(config.run.output_dir) / config.run.name / "classes"
    found = wanted(config, count, folder)
    if lora is not None:
        paths.need("--lora", str(lora), "file")
    for embedding in embeddings:
        paths.need("--embedding", str(embedding), "file")
    readiness.refuse(config, readiness.of_base)
    if reason := paths.in_the_way(folder):
        raise UserError(f"--output: nothing can be put into {folder}: {reason}. Name another folder with -o.")
    missing = [one for one in found if not one.file.exists()]
    _draw(config, missing, lora, strength, batch, partial, embeddings)
    Console().say(f"{folder}: {len(found)} pictures, {len(found) - len(missing)} of them were there")
    return folder


def wanted(config: BaseConfig, count: int, folder: Path) -> list[Wanted]:
    """Raises UserError where there is nothing to draw, and for classes whose files would have one name."""
    from trainer.randomness import derive

    names = class_names(config.model.classes)
    settings = changed(config.samples, prompts=list(names)) if names else config.samples
    asked = prompts.requests(settings)
    if not asked:
        raise UserError(
            "--per-class: there is nothing to draw; set model.classes or samples.prompts, or give --prompt."
        )
    stems = [_stem(one.prompt) for one in asked]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        told = [one.prompt for one, stem in zip(asked, stems, strict=True) if stem == twice]
        raise UserError(
            f"--per-class: the files of {told[0]!r} and {told[1]!r} would have one name; rename one of them."
        )
    return [
        Wanted(replace(one, seed=derive(config.samples.seed, f"class/{one.prompt}", number)), folder / name)
        for one, stem in zip(asked, stems, strict=True)
        for number, name in ((i, f"{stem}-{i:05d}.png") for i in range(count))
    ]


def _stem(prompt: str) -> str:
    return re.sub(r"[^\w.() -]+", "_", prompt)[:100] or "picture"


def _draw(
    config: BaseConfig,
    missing: Sequence[Wanted],
    lora: Path | None,
    strength: float,
    batch: int,
    partial: bool,
    embeddings: Sequence[Path],
) -> None:
    if not missing:
        return
    with loading():
        from trainer.adapters import lora_file, tools
        from trainer.assembly.embeddings import learn
        from trainer.assembly.model import open_family
        from trainer.assembly.processes import accelerator_for
        from trainer.run.advice import shortage_told
        from trainer.run.results import DTYPES
        from trainer.samples import drawing
    dtype, console = DTYPES[config.training.precision], Console()
    accelerator, family = accelerator_for(config), open_family(config, dtype=dtype)
    requests = [one.request for one in missing]
    drawing.refuse(family, requests)
    for line in drawing.notes(family, requests):
        console.say(f"note: {line}")
    file = None if lora is None else lora_file.read(lora)
    for line in learn(family, file, str(lora), embeddings):
        Console().say(line)
    modules = None if file is None else file.modules
    with shortage_told("while pictures were drawn", "a smaller --batch"):
        family.to(accelerator.device, dtype)
        into = (
            nullcontext() if modules is None else tools.applied(family, modules, strength, str(lora), partial=partial)
        )
        progress = console.progress("drawing", len(missing), "pictures")
        with into, accelerator.autocast(), progress as update:
            for start, some in _batches(missing, batch):
                pictures = drawing.draw(family, [one.request for one in some], together=batch)
                for one, picture in zip(some, pictures, strict=True):
                    drawing.save(picture, one.file)
                update(start + len(some), "")


def _batches(missing: Sequence[Wanted], batch: int) -> Iterator[tuple[int, Sequence[Wanted]]]:
    return ((start, missing[start : start + batch]) for start in range(0, len(missing), batch))
