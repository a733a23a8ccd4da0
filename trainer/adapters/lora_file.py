"""LoRA files: reads kohya's, LyCORIS', diffusers' and peft's formats, writes kohya's and LyCORIS'.

A module has `.lora_down.weight`, `.lora_up.weight` and `.alpha` (or LyCORIS' tensors in place of the first two, and
`.dora_scale`).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from trainer.adapters import embeddings
from trainer.adapters import names as lora_names
from trainer.adapters.embeddings import Embedding
from trainer.adapters.weights import delta, is_finite, is_zero, kind_of, name_of, rank
from trainer.batch import MAGNITUDE, UP, AdapterWeights
from trainer.errors import UserError
from trainer.files import atomic
from trainer.files.tensor_file import is_pickle, read_header, read_json, read_tensors

AlphaOf = Callable[[str, int], float | None]  # of a module and its rank
_WHOLE_NUMBERS = ("bias_indices", "bias_size", "on_input", "oft_R.scaled_oft")  # LyCORIS' and OneTrainer's


class NothingLearnedError(UserError):
    """A LoRA that changes nothing."""


@dataclass(frozen=True)
class LoraFile:
    modules: dict[str, AdapterWeights]  # by the file's name: lora_unet_mid_block_... or unet.mid_block...
    metadata: dict[str, str] = field(default_factory=dict)
    embeddings: dict[str, Embedding] = field(default_factory=dict)  # of new words that it holds too


def write(
    path: Path,
    modules: Mapping[str, AdapterWeights],
    *,
    dtype: torch.dtype,
    metadata: Mapping[str, str],
    prove: Callable[[Path], None] | None = None,
    words: Mapping[str, Embedding] | None = None,
) -> None:
    """Writes a LoRA file, reads it back and compares it with `modules` before it takes its name.

    prove: a further check of the finished file under its temporary name; words: embeddings that it holds too. Raises
    UserError, and leaves an older file as it is, when a tensor holds NaN or infinity (in memory, or once stored as
    `dtype`), when no module changes anything, or when the file differs from what was asked for.
    """
    broken = [name for name, weights in modules.items() if not is_finite(weights)]
    if broken:
        raise UserError(f"{path}: not written, {len(broken)} modules hold NaN or infinity, such as {broken[0]}")
    if not modules or all(is_zero(weights) for weights in modules.values()):
        raise NothingLearnedError(f"{path}: not written, nothing was learned (no module of the LoRA changes anything)")
    tensors = to_tensors(modules, dtype) | embeddings.bundled(words or {})
    content = safetensors.torch.save(tensors, {**metadata, **hashes(tensors, metadata)})

    def check(temporary: Path) -> None:
        if temporary.read_bytes() != content:
            raise OSError(None, "it reads back differently", str(path))  # the disk's fault, so the run goes on
        _prove(temporary, path, modules, dtype)
        _prove_words(temporary, path, words or {})
        if prove is not None:
            prove(temporary)

    atomic.write_file(path, lambda temporary: temporary.write_bytes(content), validate=check, need=len(content))


def read(path: Path) -> LoraFile:
    """Raises UserError when the file is damaged or no LoRA.

    A module without alpha has alpha = rank, as kohya reads it; one of 0 changes nothing. diffusers' and peft's alphas
    come from their metadata.
    """
    metadata = {} if is_pickle(path) else read_header(path).metadata
    tensors, words = embeddings.split(read_tensors(path))
    return LoraFile(from_tensors(tensors, str(path), _Alphas.of(path, metadata)), metadata, words)


def to_tensors(modules: Mapping[str, AdapterWeights], dtype: torch.dtype) -> dict[str, Tensor]:
    """The content of the file; alpha stays a float32 number, which half precision would round."""
    tensors: dict[str, Tensor] = {}
    for name, weights in modules.items():
        for leaf, tensor in weights.tensors.items():
            tensors[f"{name}.{leaf}"] = tensor.detach().to("cpu", dtype).contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(float(weights.alpha))
    return tensors


@dataclass(frozen=True)
class _Alphas:
    """What diffusers (in the header) or peft (in adapter_config.json) say about alpha; kohya's modules each say it."""

    config: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, str]) -> _Alphas:
        beside = path.parent / "adapter_config.json"
        try:
            told = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        except json.JSONDecodeError:
            told = {}
        if not told and path.name.startswith("adapter_model") and beside.is_file():
            told = read_json(beside)
        return cls(told if isinstance(told, dict) else {})

    def __call__(self, name: str, rank: int) -> float | None:
        part, _, inner = name.partition(".")
        for prefix, module in ((f"{part}.", inner), ("", name)):
            if f"{prefix}lora_alpha" in self.config:
                special = self.config.get(f"{prefix}alpha_pattern") or {}
                usual = self.config[f"{prefix}lora_alpha"]
                alpha = float(next((a for end, a in special.items() if _ends(module, end)), usual))
                # rank-stabilised (Kalajdzievski 2023, arXiv 2312.03732): scaled by alpha / sqrt(rank)
                return alpha * math.sqrt(rank) if self.config.get(f"{prefix}use_rslora") else alpha
        return None


def _ends(module: str, pattern: str) -> bool:
    """Whether a pattern of peft's, a regular expression for the end of a name, means this module."""
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None
    except re.error:
        return module == pattern


def with_one_alpha(modules: Mapping[str, AdapterWeights]) -> dict[str, AdapterWeights]:
    """The same changes, but for rounding, with the most frequent alpha for all; what is left of the others is in their
    `up`. For plain LoRAs."""
    (alpha, _), *_ = Counter(weights.alpha for weights in modules.values()).most_common(1)
    return {
        name: weights if weights.alpha == alpha else
        AdapterWeights({**weights.tensors, UP: weights.up.detach() * (weights.alpha / alpha)}, alpha)
        for name, weights in modules.items()
    }  # fmt: skip


def from_tensors(
    tensors: Mapping[str, Tensor], where: str, alpha_of: AlphaOf = lambda name, rank: None
) -> dict[str, AdapterWeights]:
    """The modules of a file. Raises UserError naming `where` when there is anything else in it."""
    grouped: dict[str, dict[str, Tensor]] = {}
    strange: list[str] = []
    for key, tensor in tensors.items():
        found = lora_names.split(key)
        if found is None:
            strange.append(key)
        else:
            grouped.setdefault(found[0], {})[found[1]] = tensor
    _as_lycoris(grouped, tensors)
    kind = next((what for key in strange if (what := lora_names.unread(key))), None)
    if kind:
        raise UserError(f"{where}: it is {kind}, which is not read here")
    if strange or not grouped:
        what = f"{len(strange)} names like {strange[0]!r}" if strange else "no tensors"
        raise UserError(f"{where}: not a LoRA in kohya's, LyCORIS', diffusers' or peft's format ({what})")
    return {name: _module(name, leaves, where, alpha_of) for name, leaves in grouped.items()}


def _as_lycoris(grouped: Mapping[str, dict[str, Tensor]], tensors: Mapping[str, Tensor]) -> None:
    """peft's magnitudes (out,) and (1, out, 1, 1) as LyCORIS has them, (out, 1) and (out, 1, 1, 1): by shape alone a
    square convolution's would be of its inputs. diffusers writes them under LyCORIS' name, too."""
    found = [leaves for leaves in grouped.values() if MAGNITUDE in leaves]
    if any("lora_magnitude_vector" in key for key in tensors) or any(m[MAGNITUDE].ndim == 1 for m in found):
        for leaves in found:
            magnitude = leaves[MAGNITUDE]
            leaves[MAGNITUDE] = magnitude.reshape(-1, *(1,) * max(1, magnitude.ndim - 1))


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


def _module(name: str, leaves: dict[str, Tensor], where: str, alpha_of: AlphaOf) -> AdapterWeights:
    stored = leaves.pop(lora_names.ALPHA, None)
    if name_of(leaves) is None:
        raise UserError(f"{where}: {name} is incomplete or of mixed kinds: it has {', '.join(sorted(leaves))}")
    if stored is not None and stored.numel() != 1:
        raise UserError(f"{where}: {name}.alpha has the shape {list(stored.shape)}, expected one number")
    if stored is not None and not math.isfinite(alpha := float(stored)):
        raise UserError(f"{where}: {name}.alpha is {alpha}, expected a number")
    odd = [leaf for leaf, tensor in leaves.items() if not _holds_weights(leaf, tensor)]
    if odd:
        found = leaves[odd[0]]
        raise UserError(f"{where}: {name}.{odd[0]} holds {list(found.shape)} values of {found.dtype}, expected weights")
    size = rank(AdapterWeights(leaves, 1.0))
    told = float(stored) if stored is not None else alpha_of(name, size)
    weights = AdapterWeights(leaves, float(size) if told is None else told)
    try:
        kind_of(weights).check(leaves)
    except (RuntimeError, IndexError) as error:
        shapes = ", ".join(f"{leaf} {list(tensor.shape)}" for leaf, tensor in leaves.items())
        raise UserError(f"{where}: the factors of {name} do not fit together ({shapes})") from error
    return weights


def _holds_weights(leaf: str, tensor: Tensor) -> bool:
    return tensor.numel() > 0 and (tensor.is_floating_point() or leaf in _WHOLE_NUMBERS)


def _prove(temporary: Path, path: Path, modules: Mapping[str, AdapterWeights], dtype: torch.dtype) -> None:
    """Raises UserError unless the file on disk makes the same changes as the modules in memory, up to the rounding that
    storing as `dtype` costs."""
    stored = read(temporary).modules
    if stored.keys() != modules.keys():
        raise UserError(f"{path}: not written, the file read back has other modules than were saved")
    for name, weights in modules.items():
        found = stored[name]
        if not is_finite(found):
            raise UserError(f"{path}: not written, {name} overflows when stored as {dtype}")
        if is_zero(found) and not is_zero(weights):
            raise UserError(f"{path}: not written, {name} is too small to be stored as {dtype}; use fp32")
        if not matches(found, weights):
            raise UserError(f"{path}: not written, {name} reads back as another change than was trained")


def _prove_words(temporary: Path, path: Path, words: Mapping[str, Embedding]) -> None:
    found = read(temporary).embeddings
    if found.keys() != words.keys() or not all(embeddings.equal(found[name], words[name]) for name in words):
        raise UserError(f"{path}: not written, its new words read back as other vectors than were trained")


def _is_rounded(found: Tensor, wanted: Tensor) -> bool:
    """Whether `found` is `wanted` as its own type holds it."""
    return found.numel() == wanted.numel() and torch.equal(
        found, wanted.to(found.device, found.dtype).reshape(found.shape)
    )


def matches(found: AdapterWeights, wanted: AdapterWeights) -> bool:
    """Whether two adapters make the same change, but for what the rounding of their factors explains.

    All factors enter as products, so with each factor's absolute value a and rounding error e the change differs by no
    more than the change of a + e less that of a.
    """
    if found.tensors.keys() != wanted.tensors.keys() or not math.isclose(found.alpha, wanted.alpha, rel_tol=1e-6):
        return False
    if all(_is_rounded(found.tensors[n], t.detach()) for n, t in wanted.tensors.items()):
        return True  # equal factors: the products, which take seconds for a large model, need not be formed
    if not kind_of(wanted).plain:
        return False
    live = {n: t.detach().float().cpu() for n, t in wanted.tensors.items()}
    read_back = {n: t.detach().float().cpu() for n, t in found.tensors.items()}
    if any(live[n].numel() != read_back[n].numel() for n in live):
        return False
    errors = {n: (live[n] - read_back[n].reshape(live[n].shape)).abs() for n in live}
    largest = delta(AdapterWeights({n: t.abs() for n, t in live.items()}, wanted.alpha))
    bound = delta(AdapterWeights({n: t.abs() + errors[n] for n, t in live.items()}, wanted.alpha)) - largest
    difference = delta(AdapterWeights(live, wanted.alpha)) - delta(AdapterWeights(read_back, wanted.alpha)).reshape_as(
        largest
    )
    return bool((difference.abs() <= bound + 1e-5 * largest.max()).all())
