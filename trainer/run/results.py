"""Writes what a run is for: the LoRA file, or the fine-tuned model's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator

from trainer.adapters import embeddings, header, injection
from trainer.adapters.inspection import not_finite
from trainer.batch import AdapterWeights
from trainer.errors import UserError
from trainer.files.atomic import write_file, write_folder
from trainer.protocols import Family

EMBEDDINGS_END = "-embeddings"  # of the name of the folder of new words
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Result(Protocol):
    def save(self, stem: Path, step: int) -> Path:
        """Writes the state after `step` steps to `stem` plus the kind's own suffix, and returns the full path."""
        ...


@dataclass(frozen=True)
class SharedResult:
    """Another result, which the main process writes; all processes call `save`, and it is None for the others."""

    result: Result
    accelerator: Accelerator
    averaged: Callable[[], AbstractContextManager[None]]  # inside, weights are averages where there are any
    whole: Callable[[], AbstractContextManager[None]]  # inside, the main process has all of them

    def save(self, stem: Path, step: int) -> Path | None:
        with self.averaged(), self.whole():
            return self.result.save(stem, step) if self.accelerator.is_main_process else None


@dataclass(frozen=True)
class LoraResult:
    """One .safetensors file in kohya's format; `metadata(step)` is what its header says. New words lie in a folder
    beside it, which is all there is where nothing else trains."""

    family: Family
    dtype: torch.dtype
    metadata: Callable[[int], dict[str, str]]
    waiting: Mapping[str, AdapterWeights] = field(default_factory=dict)  # adapters that do not train, by kohya's names
    bundle: bool = True  # whether the file holds new words too, which always have a folder of files of their own

    def save(self, stem: Path, step: int) -> Path:
        target, folder = stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + EMBEDDINGS_END)
        words = embeddings.of_family(self.family)
        if words:
            embeddings.write(folder, words, self._about_words(step))
        if not (injection.adapters(self.family) or self.waiting):
            return folder
        told = header.with_sizes(self.metadata(step), injection.weights(self.family))
        inside = words if self.bundle else {}
        injection.save(self.family, target, dtype=self.dtype, metadata=told, others=self.waiting, words=inside)
        return target

    def _about_words(self, step: int) -> dict[str, str]:
        return {
            "modelspec.architecture": f"{self.family.architecture}/textual-inversion",
            "ss_base_model_version": self.family.base_version,
            "ss_steps": str(step),
        }


@dataclass(frozen=True)
class FullResult:
    """A complete diffusers folder, one file, or both."""

    family: Family
    dtype: torch.dtype
    form: str = "folder"  # "folder", "file" or "both"
    metadata: Callable[[], dict[str, str]] = dict  # what the header of the file says

    def save(self, stem: Path, step: int) -> Path:
        file = stem.with_name(stem.name + ".safetensors")
        if self.form != "folder":
            write_file(file, lambda path: self.family.save_file(path, self.dtype, self.metadata()), validate=_sound)
        if self.form == "file":
            return file
        write_folder(stem, lambda folder: self.family.save(folder, self.dtype), validate=_sound)
        return stem


def _sound(path: Path) -> None:
    """Raises UserError when weights just written cannot be read or hold NaN or infinity."""
    for file in [path] if path.is_file() else sorted(path.rglob("*.safetensors")):
        broken = not_finite(file)
        if broken:
            raise UserError(f"{file.name}: not saved, {len(broken)} tensors hold NaN or infinity, such as {broken[0]}")
