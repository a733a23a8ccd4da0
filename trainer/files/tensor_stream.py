"""Writes tensors as a safetensors file piece by piece, from a thread of its own if need be.

The safetensors library makes a second copy of every tensor and holds Python's lock while it writes: for the state of a
full fine-tune that is gigabytes of memory and many seconds in which no step can be started. It reads what this writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from trainer.errors import RunError

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


class Sink(Protocol):
    def write(self, data: memoryview | bytes, /) -> object: ...


def header(tensors: Mapping[str, Tensor]) -> bytes:
    """The length, and the JSON that says where each tensor lies. Raises RunError for a type that the format lacks."""
    entries: dict[str, object] = {}
    end = 0
    for name, tensor in _in_order(tensors):
        if tensor.dtype not in _NAMES:
            raise RunError(f"cannot save {name}: safetensors has no type for {tensor.dtype}")
        begin, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    return len(text).to_bytes(8, "little") + text


def write(sink: Sink, tensors: Mapping[str, Tensor]) -> None:
    """Tensors must be contiguous and on the CPU."""
    sink.write(header(tensors))
    for _, tensor in _in_order(tensors):
        if tensor.nbytes:
            sink.write(memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]


def _in_order(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The widest types first: each tensor is aligned to its own type."""
    return sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
