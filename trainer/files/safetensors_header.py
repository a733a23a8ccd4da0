"""What a safetensors file says about itself: JSON at its beginning, read without the library, which brings torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import UserError

LONGEST = 100_000_000  # bytes of a header, as safetensors' own reader has it
BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}  # of a number


@dataclass(frozen=True)
class Header:
    """Of a weight file; no tensor is read for it."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]  # safetensors' names: "F16", "BF16", ...
    metadata: dict[str, str]


def read(path: Path) -> Header:
    """Raises UserError when the file is missing, cut off, or of another kind."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(64)
            length = int.from_bytes(begin[:8], "little")
            if length > min(LONGEST, size - 8):
                raise unsound(path, _other(begin) or "its header is cut off")
            file.seek(8)
            text = file.read(length)
        return _header(text, size - 8 - length)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        told = str(error) if isinstance(error, _DamagedError) else "its header is no list of tensors"
        raise unsound(path, _other(begin) or told) from error


def unsound(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: not a sound safetensors file of {path.stat().st_size:,} bytes ({reason}). "
        "It may be incomplete (compare its size with the original's, or get it again) or another kind of file."
    )


class _DamagedError(ValueError):
    pass


def _other(begin: bytes) -> str:
    """What a file of another kind is, by its first bytes."""
    if not begin:
        return "it is empty"
    if begin.lstrip()[:1] == b"<":
        return "it begins like a web page, such as one that asks to sign in"
    if begin.startswith(b"version https://git-lfs"):
        return "it is Git LFS's pointer to the file: git lfs pull brings the file itself"
    return "it is a zip archive or a pickle" if begin.startswith((b"PK", b"\x80\x02")) else ""


def _header(text: bytes, room: int) -> Header:
    """room: bytes of the file behind the header. Raises ValueError and its kin."""
    content = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    metadata = content.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
        raise _DamagedError("its metadata are no texts")
    found = Header({}, {}, dict(metadata))
    spans = []
    for name, entry in content.items():
        spans.append(_span(name, entry))
        found.shapes[name], found.dtypes[name] = tuple(entry["shape"]), entry["dtype"]
    _refuse_gaps(spans, room)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DamagedError("a name stands twice in its header")
    return found


def _span(name: str, entry: Mapping[str, Any]) -> tuple[int, int]:
    """Where a tensor's bytes lie behind the header."""
    (begin, end), shape, dtype = entry["data_offsets"], entry["shape"], entry["dtype"]
    numbers = [begin, end, *shape]
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
        raise _DamagedError(f"{name} has no place in it")
    if dtype not in BITS:
        raise _DamagedError(f"{name} is of an unknown type, {dtype!r}")
    if math.prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise _DamagedError(f"{name} has {end - begin} bytes, which is not what its shape {list(shape)} takes")
    return begin, end


def _refuse_gaps(spans: list[tuple[int, int]], room: int) -> None:
    """The tensors fill the file without holes."""
    last = 0
    for begin, end in sorted(spans):
        if begin != last:
            raise _DamagedError("its tensors overlap or leave holes")
        last = end
    if room != last:
        raise _DamagedError(f"it has {room:,} bytes of tensors, and its header tells of {last:,}")
