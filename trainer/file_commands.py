"""What the commands about finished files do: look into one, resize, extract and merge LoRAs, draw with one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from trainer import build, config_io, lora_file, sampling
from trainer.adapters import lora_tools
from trainer.adapters.lora_tools import Approximated, Weighted
from trainer.config import Config
from trainer.console import Console
from trainer.errors import UserError
from trainer.files import inspection
from trainer.protocols import Family
from trainer.run.results import DTYPES, FullResult
from trainer.samples import prompts

LABEL = 22  # pixels above each picture of a grid


def inspect(path: Path, *, as_json: bool) -> None:
    found = inspection.inspect(path)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
        return
    console = Console()
    for name, value in found.as_json().items():
        if name != "metadata" and value not in (None, [], {}, ()):
            console.say(f"{name + ':':<15} {value}")
    for name, value in found.metadata.items():
        console.say(f"  {name} = {value if len(value) <= 100 else value[:97] + '...'}")


def resize(file: Path, rank: int, conv_rank: int, output: Path, dtype: str) -> None:
    given = lora_file.read(file)
    _save(lora_tools.resize(given.modules, rank, conv_rank, str(file)), output, dtype, given.metadata)


def extract(tuned: Path, base: Path, rank: int, conv_rank: int, output: Path, dtype: str) -> None:
    """The LoRA between two checkpoints of one architecture."""
    first, second = open_base(tuned), open_base(base)
    found = lora_tools.extract(first, second, list(second.parts), rank, conv_rank)
    metadata = {"ss_base_model_version": second.base_version, "ss_network_module": "networks.lora"}
    _save(found, output, dtype, metadata | {"ss_network_dim": str(rank), "ss_network_alpha": str(float(rank))})


def merge(files: Sequence[Path], strengths: Sequence[float], rank: int, output: Path, dtype: str) -> None:
    """LoRAs into the weights of the base that stands first, or into one LoRA when there is none."""
    if files[0].is_file() and inspection.is_lora(files[0]):
        put_together(files, _each(strengths, files), rank, output, dtype)
    elif len(files) == 1:
        raise UserError(f"{files[0]}: nothing to merge into it; name LoRA files after it.")
    elif rank:
        raise UserError("--rank: has no effect on a base; it is for merging LoRAs into one.")
    else:
        put_into_base(files[0], files[1:], _each(strengths, files[1:]), output, dtype)


def _each(numbers: Sequence[float], files: Sequence[Path]) -> list[float]:
    """A number for each file; one counts for all."""
    found = list(numbers) * len(files) if len(numbers) == 1 else list(numbers)
    if len(found) != len(files):
        raise UserError(f"--strength: found {len(found)} numbers for {len(files)} files; give one, or one for each.")
    return found


def put_together(files: Sequence[Path], strengths: Sequence[float], rank: int, output: Path, dtype: str) -> None:
    """Several LoRAs into one: exactly, with ranks added up, or with `rank` as the nearest of that rank."""
    read = [Weighted(lora_file.read(f).modules, s, str(f)) for f, s in zip(files, strengths, strict=True)]
    found = lora_tools.combine(read, rank) if rank else Approximated(lora_tools.concatenate(read), 1.0)
    _save(found, output, dtype, lora_file.read(files[0]).metadata)


def put_into_base(base: Path, files: Sequence[Path], strengths: Sequence[float], output: Path, dtype: str) -> None:
    """LoRAs into a base's own weights: one file when the output ends in .safetensors, else a diffusers folder."""
    _refuse_existing(output)
    family = open_base(base)
    pairs = zip(files, strengths, strict=True)
    changed = [lora_tools.put_into(family, lora_file.read(f).modules, strength, str(f)) for f, strength in pairs]
    single = output.suffix == ".safetensors"
    stem = output.with_suffix("") if single else output
    saved = FullResult(family, DTYPES[dtype], "file" if single else "folder").save(stem, 0)
    Console().say(f"saved {saved}: {', '.join(map(str, changed))} layers changed")


def sample(
    path: Path,
    overrides: Sequence[str],
    lora: Path | None,
    texts: Sequence[str],
    strengths: Sequence[float],
    output: Path,
) -> None:
    """A grid: a row for each prompt, a column for each strength of the LoRA, the same seed in a row."""
    config = config_io.read(path, overrides)
    if texts:
        config.samples.prompts = list(texts)
    wanted = prompts.requests(config.samples)
    if not wanted:
        raise UserError("--prompt: there is nothing to draw; give a prompt here or in samples.prompts.")
    _refuse_existing(output)
    accelerator, family = build.accelerator_for(config), build.open_family(config)
    family.to(accelerator.device, DTYPES[config.training.precision])
    modules = None if lora is None else lora_file.read(lora).modules
    columns = []
    for strength in strengths if modules else [1.0]:
        into = nullcontext() if modules is None else lora_tools.applied(family, modules, strength, str(lora))
        with into, accelerator.autocast():
            columns.append(sampling.draw(family, wanted))
    labels = [f"strength {s:g}" for s in strengths] if modules else ["base model"]
    sampling.save(grid(columns, labels), output)
    Console().say(f"saved {output}: {len(wanted)} prompts, {len(columns)} columns ({', '.join(labels)})")


def grid(columns: Sequence[Sequence[Image.Image]], labels: Sequence[str]) -> Image.Image:
    """Pictures side by side, a label above each column. All must have one size in a row."""
    font = ImageFont.load_default(13)
    widest = math.ceil(max(font.getlength(label) for label in labels)) + 4
    width = max(widest, *(p.width for column in columns for p in column))
    heights = [max(column[row].height for column in columns) for row in range(len(columns[0]))]
    sheet = Image.new("RGB", (len(columns) * (width + 4), LABEL + sum(h + 4 for h in heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (column, label) in enumerate(zip(columns, labels, strict=True)):
        draw.text((index * (width + 4) + 2, 3), label, fill="black", font=font)
        top = LABEL
        for picture, height in zip(column, heights, strict=True):
            sheet.paste(picture, (index * (width + 4), top))
            top += height + 4
    return sheet


def open_base(base: Path) -> Family:
    """A base by its path alone."""
    if not base.exists():
        raise UserError(f"{base}: there is no such file or folder")
    return build.open_family(Config.model_validate({"model": {"base": str(base)}}))


def _save(found: Approximated, output: Path, dtype: str, metadata: dict[str, str]) -> None:
    _refuse_existing(output)
    lora_file.write(output, found.modules, dtype=DTYPES[dtype], metadata=metadata)
    Console().say(f"saved {output}: {len(found.modules)} modules, {found.kept:.1%} of the change kept")


def _refuse_existing(output: Path) -> None:
    if output.exists():
        raise UserError(f"--output: {output} is there already; give another name or remove it.")
