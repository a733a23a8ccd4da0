"""Saves and restores everything that a run needs to continue bit for bit, as safetensors and JSON, never pickle.

Random streams are functions of (seed, step, ...), so the step is all that has to be kept of them and of the loader.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.atomic import write_folder
from trainer.errors import RunError

FORMAT = 1


@dataclass(frozen=True)
class State:
    """The state after `step` finished optimizer steps."""

    step: int
    weights: Mapping[str, Tensor]  # everything that trains, by "part.dotted.name"
    optimizer: Mapping[str, Any]  # torch's state_dict
    schedule: Mapping[str, Any]
    scaler: Mapping[str, Any]  # of float16 training, else empty
    config: Mapping[str, Any]  # resolved


def save(folder: Path, state: State) -> None:
    """Writes the folder whole or not at all; the manifest of sizes and hashes comes last."""

    def write(path: Path) -> None:
        tensors: dict[str, Tensor] = {f"weights/{name}": _stored(t) for name, t in state.weights.items()}
        rest = {
            name: _pack(getattr(state, name), f"{name}", tensors)
            for name in ("optimizer", "schedule", "scaler", "config")
        }
        save_file(tensors, path / "state.safetensors")
        (path / "state.json").write_text(json.dumps({"format": FORMAT, "step": state.step, **rest}), encoding="utf-8")
        files = {f.name: {"size": f.stat().st_size, "sha256": _hash(f)} for f in sorted(path.iterdir())}
        (path / "manifest.json").write_text(json.dumps({"step": state.step, "files": files}), encoding="utf-8")

    write_folder(folder, write, validate=_verify)


def load(folder: Path) -> State:
    """Raises RunError when the folder is not a complete, undamaged checkpoint."""
    _verify(folder)
    tensors = load_file(folder / "state.safetensors")
    values = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if values["format"] != FORMAT:
        raise RunError(f"{folder}: checkpoint format {values['format']}, this version reads {FORMAT}")
    weights = {n.removeprefix("weights/"): t for n, t in tensors.items() if n.startswith("weights/")}
    rest = {name: _unpack(values[name], tensors) for name in ("optimizer", "schedule", "scaler", "config")}
    return State(step=values["step"], weights=weights, **rest)


def newest(checkpoints: Path, say: Any = print) -> Path | None:
    """The newest valid checkpoint of a run; damaged ones are named and passed over."""
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        try:
            _verify(folder)
            return folder
        except RunError as error:
            say(f"passing over a damaged checkpoint: {error}")
    return None


def _verify(folder: Path) -> None:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for name, wanted in manifest["files"].items():
            file = folder / name
            if file.stat().st_size != wanted["size"] or _hash(file) != wanted["sha256"]:
                raise RunError(f"{file}: differs from what was written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder}: not a complete checkpoint ({error})") from error


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _stored(tensor: Tensor) -> Tensor:
    # A copy: safetensors refuses tensors that share memory, as the tables of 8-bit optimizers do.
    return tensor.detach().to("cpu", copy=True).contiguous()


def _pack(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Nested containers as JSON, tensors moved into `tensors` under their path."""
    if isinstance(value, Tensor):
        tensors[key] = _stored(value)
        return {"tensor": key}
    if isinstance(value, Mapping):
        return {"dict": [[k, _pack(v, f"{key}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(v, f"{key}/{i}", tensors) for i, v in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise RunError(f"cannot save {key}: a value of type {type(value).__name__}")


def _unpack(packed: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    ((kind, value),) = packed.items()
    match kind:
        case "tensor":
            return tensors[value]
        case "dict":
            return {k: _unpack(v, tensors) for k, v in value}
        case "list" | "tuple":
            items = [_unpack(v, tensors) for v in value]
            return tuple(items) if kind == "tuple" else items
        case _:
            return value


@torch.no_grad()
def restore_weights(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Copies saved weights into the live parameters. Raises RunError when the two sets differ."""
    if parameters.keys() != weights.keys():
        odd = sorted(parameters.keys() ^ weights.keys())
        raise RunError(f"the checkpoint trains other weights than this config, e.g. {odd[0]}")
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            raise RunError(
                f"{name}: the checkpoint has shape {tuple(weights[name].shape)}, not {tuple(parameter.shape)}"
            )
        parameter.copy_(weights[name])
