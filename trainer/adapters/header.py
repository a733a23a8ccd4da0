"""What the header of a LoRA file says that was made out of others: its own sizes and name, by kohya's keys."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping

from trainer.adapters.weights import rank
from trainer.batch import AdapterWeights
from trainer.files.metadata import SETTINGS

# What stays true of a file made out of several: what they are for.
OF_THE_BASE = (
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_sd_model_hash",
    "ss_new_sd_model_hash",
    "ss_v2",
    "ss_network_module",
    "modelspec.sai_model_spec",
    "modelspec.architecture",
    "modelspec.implementation",
    "modelspec.prediction_type",
    "modelspec.resolution",
)


def resized(metadata: Mapping[str, str], modules: Mapping[str, AdapterWeights], name: str) -> dict[str, str]:
    """Of one file brought to another rank: everything else about its training stays true."""
    was, found = metadata.get("ss_network_dim", "?"), sizes(modules)
    comment = f"resized from rank {was} to {found['ss_network_dim']}"
    before = metadata.get("ss_training_comment", "")
    told = {"ss_training_comment": f"{comment}; {before}" if before and before != "None" else comment}
    kept = {key: value for key, value in metadata.items() if key != SETTINGS}  # another rank is in there
    return {**kept, **told, **_arguments(metadata, found), **_named(metadata, name)}


def merged(given: Iterable[Mapping[str, str]], modules: Mapping[str, AdapterWeights], name: str) -> dict[str, str]:
    """Of several files put together: what they agree on about their base."""
    first, *others = given
    common = {k: v for k, v in first.items() if k in OF_THE_BASE and all(o.get(k, v) == v for o in others)}
    return {**common, **_arguments({}, sizes(modules)), **_named(first, name)}


def with_sizes(metadata: Mapping[str, str], modules: Mapping[str, AdapterWeights]) -> dict[str, str]:
    """Of a trained file: rank and alpha as its modules have them, where all agree: those of a file that the run went on
    from may be others than the settings say. Where blocks differ on purpose, the settings' stand, as kohya's do."""
    found = {key: value for key, value in sizes(modules).items() if value not in ("Dynamic", "0")}
    before = {key: value for key, value in _network_args(metadata).items() if key.startswith("conv_")}
    return {**metadata, **_arguments(metadata, before | found)}


def sizes(modules: Mapping[str, AdapterWeights]) -> dict[str, str]:
    """ss_network_dim and ss_network_alpha: of the linear layers and 1x1 convolutions, or of all where there are only
    3x3 ones; "Dynamic" (kohya's word) where they differ. conv_dim and conv_alpha of the others."""
    narrow = Counter((rank(m), m.alpha) for m in modules.values() if not is_wide(m))
    wide = Counter((rank(m), m.alpha) for m in modules.values() if is_wide(m))
    told = dict(zip(("ss_network_dim", "ss_network_alpha"), _one(narrow or wide), strict=True))
    if narrow and wide:
        told |= dict(zip(("conv_dim", "conv_alpha"), _one(wide), strict=True))
    return told


def _one(found: Counter[tuple[int, float]]) -> tuple[str, str]:
    ranks, alphas = {r for r, _ in found}, {a for _, a in found}
    return (str(*ranks) if len(ranks) == 1 else "Dynamic", str(*alphas) if len(alphas) == 1 else "Dynamic")


def is_wide(weights: AdapterWeights) -> bool:
    """Whether it adapts a convolution of more than one cell."""
    return any(t.ndim == 4 and t.shape[-1] > 1 for t in weights.tensors.values())


def _arguments(metadata: Mapping[str, str], found: Mapping[str, str]) -> dict[str, str]:
    """The sizes where kohya's scripts keep them: the convolutions' stand in ss_network_args."""
    arguments = _network_args(metadata)
    wide = {k: v for k, v in found.items() if k.startswith("conv_")}
    arguments = {k: v for k, v in arguments.items() if k not in ("conv_dim", "conv_alpha")} | wide
    told = {k: v for k, v in found.items() if k not in wide}
    return told | ({"ss_network_args": json.dumps(arguments)} if arguments or "ss_network_args" in metadata else {})


def _network_args(metadata: Mapping[str, str]) -> dict[str, str]:
    try:
        return json.loads(metadata.get("ss_network_args", "{}")) or {}
    except ValueError:
        return {}


def _named(metadata: Mapping[str, str], name: str) -> dict[str, str]:
    title = {"modelspec.title": name} if "modelspec.title" in metadata else {}
    return {"ss_output_name": name, **title}
