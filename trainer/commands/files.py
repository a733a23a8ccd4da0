"""What the commands about finished files do: look into one, resize, extract and merge LoRAs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.adapters import embeddings, extraction, header, inspection, lora_file, naming, tools
from trainer.adapters.embeddings import Embedding
from trainer.adapters.lora_file import LoraFile
from trainer.adapters.naming import Weighted
from trainer.adapters.tools import Approximated
from trainer.assembly.model import open_family
from trainer.commands import inspecting
from trainer.config.schema.whole import Config
from trainer.errors import UserError
from trainer.journal.console import Console
from trainer.protocols import Family
from trainer.run.results import DTYPES, FullResult


def inspect(path: Path, *, as_json: bool) -> None:
    found = inspection.inspect(path)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
        return
    for line in inspecting.lines(path, found):
        Console().say(line)


def resize(file: Path, rank: int, conv_rank: int, output: Path, dtype: str) -> None:
    given = lora_file.read(file)
    found = tools.resize(Weighted(given.modules, 1.0, str(file), given.metadata), rank, conv_rank)
    _save(found, output, dtype, header.resized(given.metadata, found.modules, output.stem), given.embeddings)


def convert(file: Path, projections: str | None, output: Path, dtype: str) -> None:
    """The same LoRA by kohya's names. projections: "linear" or "convolution" for those that programs take for either;
    None leaves them."""
    given = lora_file.read(file)
    (named,) = naming.unified([Weighted(given.modules, 1.0, str(file), given.metadata)])
    modules = named.modules
    if projections:
        modules = tools.with_dimensions(modules, naming.either_way(named), 4 if projections == "convolution" else 2)
    told = {**given.metadata, "ss_output_name": output.stem}
    _save(Approximated(dict(modules), 1.0), output, dtype, told, given.embeddings)


def extract(
    tuned: Path,
    base: Path,
    rank: int,
    conv_rank: int,
    output: Path,
    dtype: str,
    *,
    min_diff: float = 0.0,
    alpha: float = 0.0,
) -> None:
    """The LoRA between two checkpoints of one architecture. alpha: of every module; 0 = its rank."""
    _refuse_existing(output)
    first, second = open_base(tuned), open_base(base)
    made = extraction.extract(first, second, list(second.parts), rank, conv_rank, min_diff=min_diff)
    found = tools.with_alpha(made.found, alpha) if alpha else made.found
    metadata = {"ss_base_model_version": second.base_version, "ss_network_module": "networks.lora"}
    _save(found, output, dtype, header.merged([metadata], found.modules, output.stem))
    for count, why in ((made.rounding, "the two files' rounding"), (made.small, f"--min-diff {min_diff:g}")):
        if count:
            Console().say(f"{count} layers were left out: they differ by no more than {why}")
    if made.lost:
        Console().say(_told_lost(made.lost, asked=conv_rank > 0))


def _told_lost(names: Sequence[str], *, asked: bool) -> str:
    hint = "no LoRA of kohya's holds them" if asked else "--conv-rank takes the convolutions among them"
    return f"warning: {len(names)} other weights differ and are not in the file, such as {names[0]}; {hint}"


def merge(
    files: Sequence[Path], strengths: Sequence[float], rank: int, output: Path, dtype: str, partial: bool = False
) -> None:
    """LoRAs into the weights of the base that stands first, or into one LoRA when there is none."""
    if files[0].is_file() and inspection.is_lora(files[0]):
        put_together(files, _each(strengths, files), rank, output, dtype)
    elif len(files) == 1:
        raise UserError(f"{files[0]}: nothing to merge into it; name LoRA files after it.")
    elif rank:
        raise UserError("--rank: has no effect on a base; it is for merging LoRAs into one.")
    else:
        put_into_base(files[0], files[1:], _each(strengths, files[1:]), output, dtype, partial)


def _each(numbers: Sequence[float], files: Sequence[Path]) -> list[float]:
    """A number for each file; one counts for all."""
    found = list(numbers) * len(files) if len(numbers) == 1 else list(numbers)
    if len(found) != len(files):
        raise UserError(f"--strength: found {len(found)} numbers for {len(files)} files; give one, or one for each.")
    return found


def put_together(files: Sequence[Path], strengths: Sequence[float], rank: int, output: Path, dtype: str) -> None:
    """Several LoRAs into one: exactly, with ranks added up, or with `rank` as the nearest of that rank."""
    given = [lora_file.read(file) for file in files]
    read = [Weighted(g.modules, s, str(f), g.metadata) for g, s, f in zip(given, strengths, files, strict=True)]
    found = tools.combine(read, rank) if rank else Approximated(tools.concatenate(read), 1.0)
    words = _all_words(given, files)
    _save(found, output, dtype, header.merged([g.metadata for g in given], found.modules, output.stem), words)


def put_into_base(
    base: Path, files: Sequence[Path], strengths: Sequence[float], output: Path, dtype: str, partial: bool
) -> None:
    """LoRAs into a base's own weights: one file when the output ends in .safetensors, else a diffusers folder.

    partial: what does not fit is left out, and told.
    """
    _refuse_existing(output)
    family = open_base(base)
    pairs = zip(files, strengths, strict=True)
    read = [(lora_file.read(f), f, s) for f, s in pairs]
    placed = [tools.put_into(family, one.modules, s, str(f), partial=partial) for one, f, s in read]
    for lora, file, _ in read:
        for word in lora.embeddings:
            Console().say(f"{file}: the embedding of {word!r} is not put into the base: its vocabulary stays as it is")
    for file, one in zip(files, placed, strict=True):
        for name in one.left_out:
            Console().say(f"{file}: {name} does not fit this base and is left out")
    single = output.suffix == ".safetensors"
    stem = output.with_suffix("") if single else output
    saved = FullResult(family, DTYPES[dtype], "file" if single else "folder").save(stem, 0)
    Console().say(f"saved {saved}: {', '.join(str(one.layers) for one in placed)} layers changed")


def open_base(base: Path) -> Family:
    """A base by its path alone."""
    if not base.exists():
        raise UserError(f"{base}: there is no such file or folder")
    return open_family(Config.model_validate({"model": {"base": str(base)}}))


def _all_words(given: Sequence[LoraFile], files: Sequence[Path]) -> dict[str, Embedding]:
    """The embeddings of all files. Raises UserError where two mean other things by one word."""
    found: dict[str, Embedding] = {}
    for one, file in zip(given, files, strict=True):
        for word, embedding in one.embeddings.items():
            if word in found and not embeddings.equal(found[word], embedding):
                raise UserError(f"{file}: holds another embedding of {word!r} than a file before it.")
            found[word] = embedding
    return found


def _save(
    found: Approximated,
    output: Path,
    dtype: str,
    metadata: dict[str, str],
    words: Mapping[str, Embedding] | None = None,
) -> None:
    _refuse_existing(output)
    lora_file.write(output, found.modules, dtype=DTYPES[dtype], metadata=metadata, words=words)
    Console().say(f"saved {output}: {len(found.modules)} modules, {found.kept:.1%} of the change kept")


def _refuse_existing(output: Path) -> None:
    if output.exists():
        raise UserError(f"--output: {output} is there already; give another name or remove it.")
