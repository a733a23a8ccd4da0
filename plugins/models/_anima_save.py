"""Writes Anima: a diffusers folder with everything, or the diffusion model's file that ComfyUI and sd-scripts read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from plugins.models import _anima_names, _anima_networks, _clip, _diffusers_folder, _modules
from plugins.models._anima_files import TOKENIZERS, Files, Source
from plugins.models._anima_networks import CHILD
from plugins.models._modules import Network
from trainer.errors import UserError
from trainer.files.tensor_file import read_header, read_tensors

_PREFIX = _anima_names.FILE_PREFIXES[0]  # of a new file: sd-scripts' and the published ones'
_CLASSES = {
    "transformer": ("diffusers", "CosmosTransformer3DModel"),
    CHILD: ("diffusers", "AnimaTextConditioner"),
    "vae": ("diffusers", "AutoencoderKLQwenImage"),
    "text_encoder": ("transformers", "Qwen3Model"),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
}
_TOKENIZERS = {"BPE": "Qwen2Tokenizer", "Unigram": "T5TokenizerFast"}  # by how they cut words
_OF_DIFFUSERS = {"_class_name": "AnimaModularPipeline", "_diffusers_version": "0.42.1"}


def folder(
    path: Path,
    networks: Mapping[str, Network],
    tokenizers: Mapping[str, Any],
    scheduler: Any,
    source: Source,
    dtype: torch.dtype,
) -> None:
    """networks: "transformer", "text_encoder" and "vae"."""
    path.mkdir(parents=True, exist_ok=True)
    weights = _anima_networks.split(_held(networks["transformer"]))
    weights |= {part: _held(networks[part]) for part in ("text_encoder", "vae")}
    for part, live in weights.items():
        exact = {name: tensor.to(dtype) for name, tensor in _exact(live, source, part).items()}
        network = _anima_networks.parts_of(networks["transformer"]).get(part) or networks[part]
        stem = _diffusers_folder.DIFFUSERS_STEM
        if part == "text_encoder":
            stem, config = _diffusers_folder.TRANSFORMERS_STEM, _clip.config_of(network, dtype)
        else:
            config = _diffusers_folder.config_of(network)
        config = _anima_networks.stored(config, source.config(part)) if part == "transformer" else config
        _diffusers_folder.write_part(path / part, stem, config, exact)
    for name in TOKENIZERS:
        tokenizers[name].save_pretrained(path / name)
    scheduler.save_pretrained(path / "scheduler")
    classes = _CLASSES | {name: ("transformers", _class_of(tokenizers[name])) for name in TOKENIZERS}
    _diffusers_folder.write_json(path / "model_index.json", _OF_DIFFUSERS | {n: [*c] for n, c in classes.items()})
    _diffusers_folder.write_json(path / "modular_model_index.json", _modular(classes))


def _class_of(tokenizer: Any) -> str:
    kind = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("type")
    return _TOKENIZERS.get(kind, "PreTrainedTokenizerFast")


def _modular(classes: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """The index of diffusers' modular pipelines: each part with where it is from, which is the folder itself."""
    return {
        **_OF_DIFFUSERS,
        "_blocks_class_name": "AnimaAutoBlocks",
        **{
            name: [
                library,
                kind,
                {"pretrained_model_name_or_path": "", "subfolder": name, "type_hint": [library, kind]},
            ]
            for name, (library, kind) in classes.items()
        },
    }


def file(path: Path, transformer: Network, source: Source, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """The diffusion model with its conditioner. Where the base is such a file, what did not train is copied from it bit
    for bit, and so is all that no network has; the names keep the base's prefix."""
    live = _held(transformer)
    before, prefix, told = {}, _PREFIX, {}
    if isinstance(source, Files) and source.path.is_file():
        before, prefix, told = read_tensors(source.path), source.prefix, read_header(source.path).metadata
    named = {prefix + _anima_names.to_original(name): tensor for name, tensor in live.items()}
    kept = {n: t for n, t in before.items() if n not in named or torch.equal(named[n], t.to(named[n].dtype))}
    tensors = {n: t.to(dtype) for n, t in named.items() if n not in kept} | kept
    kept_told = {k: v for k, v in told.items() if not k.startswith(("modelspec.hash", "sshs_", "modelspec.date"))}
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, {**kept_told, "format": "pt", **metadata})


def _held(network: Network) -> dict[str, Tensor]:
    return _modules.base_weights(network)


def _exact(live: Mapping[str, Tensor], source: Source, part: str) -> Mapping[str, Tensor]:
    """What did not train is read anew where it is held in a lower precision than the base's: storing it must not cost
    precision."""
    if all(t.dtype == torch.float32 for t in live.values() if t.is_floating_point()):
        return live
    try:
        return _modules.exact(live, source.weights(part))
    except UserError:  # the base was moved since: what is in memory is all there is
        return live
