"""Saves and restores everything that a run needs to continue bit for bit, as safetensors and JSON, never pickle.

Random streams are functions of (seed, step, ...), so the step is all that has to be kept of them and of the loader.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainer.errors import RunError
from trainer.files import tensor_stream
from trainer.files.atomic import write_folder
from trainer.optim.sharded_tensor import shared_as, whole

FORMAT = 1
TENSORS, VALUES, MANIFEST = "state.safetensors", "state.json", "manifest.json"
_NESTED = ("optimizer", "schedule", "scaler", "extra", "config")


@dataclass(frozen=True)
class State:
    """The state after `step` finished optimizer steps."""

    step: int
    weights: Mapping[str, Tensor]  # everything that trains, by "part.dotted.name"
    optimizer: Mapping[str, Any]  # torch's state_dict
    schedule: Mapping[str, Any]
    scaler: Mapping[str, Any]  # of float16 training, else empty
    config: Mapping[str, Any]  # resolved
    extra: Mapping[str, Any] = field(default_factory=dict)  # the state_dict of whatever else goes on, by its name


@dataclass(frozen=True)
class Staged:
    """A state as it will lie on the disk, copied to the host: what trains may change meanwhile."""

    tensors: Mapping[str, Tensor]
    values: bytes  # JSON
    step: int

    @property
    def size(self) -> int:
        """Bytes of the whole folder, from above."""
        tensors = sum(tensor.nbytes for tensor in self.tensors.values())
        return tensors + len(tensor_stream.header(self.tensors)) + len(self.values) + 4096


def stage(state: State) -> Staged:
    """Raises RunError for a value that can't be kept."""
    tensors: dict[str, Tensor] = {f"weights/{name}": _stored(t) for name, t in state.weights.items()}
    rest = {name: _pack(getattr(state, name), name, tensors) for name in _NESTED}
    values = json.dumps({"format": FORMAT, "step": state.step, **rest}).encode()
    return Staged(tensors, values, state.step)


def help_staging(state: State) -> None:
    """What the other processes do while one stages a state whose tensors they share."""
    for value in (state.weights, *(getattr(state, name) for name in _NESTED)):
        for tensor in _tensors(value):
            whole(tensor)


def write(folder: Path, staged: Staged) -> None:
    """Writes the folder whole or not at all; the manifest of sizes and hashes comes last. Raises OSError."""

    def fill(path: Path) -> None:
        files = {
            TENSORS: _written(path / TENSORS, lambda sink: tensor_stream.write(sink, staged.tensors)),
            VALUES: _written(path / VALUES, lambda sink: sink.write(staged.values)),
        }
        (path / MANIFEST).write_bytes(_manifest({"step": staged.step, "files": files}))

    write_folder(folder, fill, validate=_proven, need=staged.size)


def save(folder: Path, state: State) -> None:
    write(folder, stage(state))


def load(folder: Path) -> State:
    """Raises RunError when the folder is not a complete, undamaged checkpoint."""
    verify(folder)
    values = _values(folder)
    try:
        tensors = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder}: not a complete checkpoint ({error})") from error
    weights = {n.removeprefix("weights/"): t for n, t in tensors.items() if n.startswith("weights/")}
    rest = {name: _unpack(values[name], tensors) for name in _NESTED}
    return State(step=values["step"], weights=weights, **rest)


def config_of(folder: Path) -> dict[str, Any]:
    """The config that a checkpoint was made with; its tensors are not read. Raises RunError."""
    _verify_files(folder, {VALUES})
    found: dict[str, Any] = _unpack(_values(folder)["config"], {})
    return found


def load_newest(checkpoints: Path, say: Callable[[str], object] = print) -> State | None:
    """The newest valid checkpoint of a run; damaged ones are named and passed over."""
    for folder in reversed(folders(checkpoints)):
        try:
            return load(folder)
        except RunError as error:
            say(f"passing over a damaged checkpoint: {error}")
    return None


def folders(checkpoints: Path) -> list[Path]:
    """All checkpoints of a run, the oldest first."""
    named = [folder for folder in checkpoints.glob("step-*") if step_of(folder) is not None]
    return sorted(named, key=lambda folder: step_of(folder) or 0)


def step_of(folder: Path) -> int | None:
    number = folder.name.removeprefix("step-")
    return int(number) if number.isdecimal() else None


def verify(folder: Path) -> None:
    """Raises RunError unless every byte is as it was written."""
    _verify_files(folder, {TENSORS, VALUES})


def _proven(folder: Path) -> None:
    """What was just written reads back: a disk that lies is a failed write."""
    try:
        verify(folder)
    except RunError as error:
        raise OSError(None, f"it reads back differently ({error})", str(folder)) from error


def _verify_files(folder: Path, names: set[str]) -> None:
    try:
        text = (folder / MANIFEST).read_bytes()
        manifest = json.loads(text)
        # The manifest vouches for itself too: it must be exactly what would be written for its content.
        if text != _manifest({"step": manifest["step"], "files": manifest["files"]}):
            raise RunError(f"{folder / MANIFEST}: differs from what was written")
        for name in sorted(names):
            file, wanted = folder / name, manifest["files"][name]
            if file.stat().st_size != wanted["size"] or _hash(file) != wanted["sha256"]:
                raise RunError(f"{file}: differs from what was written")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{folder}: not a complete checkpoint ({error})") from error


def _manifest(content: Mapping[str, Any]) -> bytes:
    own = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "sha256": own}).encode()


def _values(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / VALUES).read_bytes())
    if values["format"] != FORMAT:
        raise RunError(f"{folder}: checkpoint format {values['format']}, this version reads {FORMAT}")
    return values


class _Hashing:
    """Hashes what passes through, so that the manifest tells what was meant, not what the disk made of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: memoryview | bytes) -> None:
        self.sha256.update(data)
        self.size += len(data)
        self._file.write(data)


def _written(file: Path, fill: Callable[[_Hashing], object]) -> dict[str, Any]:
    """Size and hash of what `fill` wrote."""
    with file.open("wb") as opened:
        sink = _Hashing(opened)
        fill(sink)
    return {"size": sink.size, "sha256": sink.sha256.hexdigest()}


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _stored(tensor: Tensor) -> Tensor:
    # A copy: what trains goes on changing, and tables of 8-bit optimizers share memory.
    return whole(tensor).to("cpu", copy=True).contiguous()


def _pack(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Nested containers as JSON, tensors moved into `tensors` under their path."""
    if isinstance(value, Tensor):
        tensors[key] = _stored(value)
        return {"tensor": key}
    if isinstance(value, Mapping):
        return {"dict": [[_key(k, key), _pack(v, f"{key}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(v, f"{key}/{i}", tensors) for i, v in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    raise RunError(f"cannot save {key}: a value of type {type(value).__name__}")


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested containers, in the order in which they are packed."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)


def _key(key: Any, place: str) -> int | str:
    if isinstance(key, (int, str)):
        return key
    raise RunError(f"cannot save {place}: a key of type {type(key).__name__}")


def _unpack(packed: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    ((kind, value),) = packed.items()
    match kind:
        case "tensor":
            return tensors[value]
        case "dtype":
            return getattr(torch, value)
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
    for name, parameter in parameters.items():
        parameter.copy_(shared_as(weights[name], parameter))
