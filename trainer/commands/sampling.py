"""What `sample` does: draws a grid of prompts by strengths of a LoRA, or pictures of each class into a folder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.assembly import readiness
from trainer.commands.quiet import loading
from trainer.config import paths, reading
from trainer.config.schema.base import changed
from trainer.config.schema.whole import BaseConfig
from trainer.errors import UserError
from trainer.journal.console import Console
from trainer.journal.run_dir import RunDir
from trainer.samples import prompts

if TYPE_CHECKING:
    from PIL.Image import Image


def sample(
    path: Path,
    overrides: Sequence[str],
    lora: Path | None,
    texts: Sequence[str],
    strengths: Sequence[float],
    output: Path | None,
    partial: bool = False,
    parts: Path | None = None,
    embeddings: Sequence[Path] = (),
) -> Path:
    """A grid: a row for each prompt, a column for each strength of the LoRA, the same seed in a row.

    output: a file, or a folder for numbered ones; without it they lie in the run's folder, or where it would be. What
    is there already stays. embeddings: files of new words, named after them. parts: a folder for the pictures one by
    one, ROW-COLUMN.png.
    """
    config = trained(reading.read(path, overrides))
    if texts:
        config.samples.prompts = list(texts)
    wanted = prompts.requests(config.samples)
    if not wanted:
        raise UserError("--prompt: there is nothing to draw; give a prompt here or in samples.prompts.")
    if lora is not None:
        paths.need("--lora", str(lora), "file")
    for embedding in embeddings:
        paths.need("--embedding", str(embedding), "file")
    readiness.refuse(config, readiness.of_base)
    target = _target(config, output)
    with loading():
        from trainer.adapters import lora_file, tools
        from trainer.assembly.embeddings import learn
        from trainer.assembly.model import open_family
        from trainer.assembly.processes import accelerator_for
        from trainer.run.advice import shortage_told
        from trainer.run.results import DTYPES
        from trainer.samples import drawing
        from trainer.samples.grid import grid
    dtype = DTYPES[config.training.precision]
    accelerator, family = accelerator_for(config), open_family(config, dtype=dtype)
    drawing.refuse(family, wanted)
    for line in drawing.notes(family, wanted):
        Console().say(f"note: {line}")
    file = None if lora is None else lora_file.read(lora)
    for line in learn(family, file, str(lora), embeddings):
        Console().say(line)
    modules = None if file is None else file.modules
    columns: list[list[Image]] = []
    with shortage_told("while pictures were drawn", "a smaller samples.width and samples.height"):
        family.to(accelerator.device, dtype)
        for strength in strengths if modules else [1.0]:
            into = (
                nullcontext() if modules is None
                else tools.applied(family, modules, strength, str(lora), partial=partial)
            )  # fmt: skip
            with into as placed, accelerator.autocast():
                for name in placed.left_out if placed and not columns else ():
                    Console().say(f"{lora}: {name} does not fit this base and is left out")
                columns.append(drawing.draw(family, wanted))
    labels = [f"strength {s:g}" for s in strengths] if modules else ["base model"]
    if parts is not None:
        for column, row in itertools.product(range(len(columns)), range(len(wanted))):
            drawing.save(columns[column][row], parts / f"{row}-{column}.png")
    drawing.save(grid(columns, labels, [one.prompt for one in wanted]), target)
    Console().say(f"saved {target}: {len(wanted)} prompts, {len(columns)} columns ({', '.join(labels)})")
    return target


def trained(config: BaseConfig) -> BaseConfig:
    """With the run's own result as its base, where the config begins with random weights: those draw nothing. Raises
    UserError when the run has none yet."""
    model = config.model
    if not model.network and model.init == "pretrained":
        return config
    stem = RunDir(Path(config.run.output_dir) / config.run.name).result(None)
    result = next((p for p in (stem, stem.with_name(f"{stem.name}.safetensors")) if p.exists()), None)
    if result is None:
        raise UserError(
            f"model.{'network' if model.network else 'init'}: weights are random before the training, and its result "
            f"{stem} is not there yet. Train first."
        )
    return changed(config, model=changed(model, base=str(result), network={}, init="pretrained"))


def _target(config: BaseConfig, output: Path | None) -> Path:
    """A file that is not there yet. Raises UserError where none can be written."""
    from trainer.samples.grid import free_name

    own = Path(config.run.output_dir) / config.run.name
    folder = own if output is None else output if output.is_dir() else output.parent
    if reason := paths.in_the_way(folder):
        raise UserError(f"--output: nothing can be put into {folder}: {reason}. Name another folder with -o.")
    folder.mkdir(parents=True, exist_ok=True)
    if output is None or output.is_dir():
        return free_name(folder)
    return free_name(folder, output.stem) if output.exists() else output
