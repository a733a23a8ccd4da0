"""LoRA files in kohya's format: `<module>.lora_down.weight`, `.lora_up.weight`, `.alpha`, and metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from trainer import atomic
from trainer.adapter_weights import DOWN, UP, AdapterWeights, delta, is_finite
from trainer.errors import UserError
from trainer.tensor_file import read_header, read_tensors

_LEAVES = (DOWN, UP, "alpha")
# Rounding to the stored type moves each factor by at most half a unit in the last place.
_TOLERANCE = {torch.float32: 0.0, torch.float16: 2**-9, torch.bfloat16: 2**-6}


@dataclass(frozen=True)
class LoraFile:
    modules: dict[str, AdapterWeights]  # by kohya's name, e.g. lora_unet_mid_block_attentions_0_proj_in
    metadata: dict[str, str] = field(default_factory=dict)


def write(
    path: Path, modules: Mapping[str, AdapterWeights], *, dtype: torch.dtype, metadata: Mapping[str, str]
) -> None:
    """Writes a LoRA file, reads it back and compares it with `modules` before it takes its name.

    Raises UserError, and leaves an older file as it is, when a tensor holds NaN or infinity (in memory, or once
    stored as `dtype`) or the file differs from what was asked for.
    """
    broken = [name for name, weights in modules.items() if not is_finite(weights)]
    if broken:
        raise UserError(f"{path}: not written, {len(broken)} modules hold NaN or infinity, such as {broken[0]}")
    tensors = to_tensors(modules, dtype)
    complete = {**metadata, **hashes(tensors, metadata)}

    def save(temporary: Path) -> None:
        temporary.write_bytes(safetensors.torch.save(tensors, complete))

    atomic.write_file(path, save, validate=lambda temporary: _prove(temporary, path, modules, dtype))


def read(path: Path) -> LoraFile:
    """Raises UserError when the file is damaged or no LoRA file in kohya's format.

    A module without alpha has alpha = rank, as kohya reads it.
    """
    header = read_header(path) if path.suffix == ".safetensors" else None
    modules = from_tensors(read_tensors(path), str(path))
    return LoraFile(modules, {} if header is None else header.metadata)


def to_tensors(modules: Mapping[str, AdapterWeights], dtype: torch.dtype) -> dict[str, Tensor]:
    """The content of the file; alpha stays a float32 number, which half precision would round."""
    tensors: dict[str, Tensor] = {}
    for name, weights in modules.items():
        for leaf, tensor in weights.tensors.items():
            tensors[f"{name}.{leaf}"] = tensor.detach().to("cpu", dtype).contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(float(weights.alpha))
    return tensors


def from_tensors(tensors: Mapping[str, Tensor], where: str) -> dict[str, AdapterWeights]:
    """The inverse of `to_tensors`. Raises UserError naming `where`."""
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, leaf = key.partition(".")
        grouped.setdefault(name, {})[leaf] = tensor
    strange = [f"{n}.{leaf}" for n, leaves in grouped.items() for leaf in leaves if leaf not in _LEAVES]
    if strange or not grouped:
        found = f"{len(strange)} keys like {strange[0]!r}" if strange else "no tensors"
        raise UserError(f"{where}: not a LoRA in kohya's format ({found})")
    return {name: _module(name, leaves, where) for name, leaves in grouped.items()}


def hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """kohya's sshs_model_hash and sshs_legacy_hash: of the file as it would be with the ss_ metadata alone.

    The first is the SHA-256 of everything behind the header, the second the first 8 digits of that of 64 KiB at 1 MiB.
    """
    content = safetensors.torch.save(dict(tensors), {k: v for k, v in metadata.items() if k.startswith("ss_")})
    behind_header = 8 + int.from_bytes(content[:8], "little")
    return {
        "sshs_model_hash": hashlib.sha256(content[behind_header:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8],
    }


def _module(name: str, leaves: Mapping[str, Tensor], where: str) -> AdapterWeights:
    if DOWN not in leaves or UP not in leaves:
        raise UserError(f"{where}: {name} has only {', '.join(sorted(leaves))}; expected {DOWN} and {UP}")
    down, up = leaves[DOWN], leaves[UP]
    if down.ndim not in (2, 4) or up.ndim != down.ndim or up.shape[1] != down.shape[0]:
        raise UserError(
            f"{where}: {name} has shapes {list(down.shape)} and {list(up.shape)}, which are no pair of low-rank factors"
        )
    alpha = float(leaves["alpha"]) if "alpha" in leaves else 0.0
    return AdapterWeights({DOWN: down, UP: up}, alpha or float(down.shape[0]))


def _prove(temporary: Path, path: Path, modules: Mapping[str, AdapterWeights], dtype: torch.dtype) -> None:
    """Raises UserError unless the file on disk makes the same changes as the modules in memory."""
    stored = read(temporary).modules
    if stored.keys() != modules.keys():
        raise UserError(f"{path}: not written, the file read back has other modules than were saved")
    for name, weights in modules.items():
        if not is_finite(stored[name]):
            raise UserError(f"{path}: not written, {name} overflows when stored as {dtype}")
        wanted, found = delta(weights).detach().cpu(), delta(stored[name])
        if float((wanted - found).abs().max()) > _TOLERANCE[dtype] * _size(weights):
            raise UserError(f"{path}: not written, {name} reads back as another change than was trained")


def _size(weights: AdapterWeights) -> float:
    """An upper bound of what one element of the change could be, the unit in which rounding is measured."""
    down, up = weights.down.detach().float().flatten(1), weights.up.detach().float().flatten(1)
    return abs(weights.scale) * float((up.abs() @ down.abs()).max())
