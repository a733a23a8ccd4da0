"""Five thousand broken weight files: each loads, or is answered in a line; none takes more memory than it is long."""

from __future__ import annotations

import copy
import json
import random
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.reliability.forks import forked
from trainer.adapters import lora_file
from trainer.batch import AdapterWeights
from trainer.errors import UserError
from trainer.files.tensor_file import read_header, read_tensors

RANDOM = 5000
ROOM = 64 << 20  # bytes that reading files of a few kilobytes may take: libraries, fragments, threads
DTYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "F4",
    "I64",
    "I32",
    "I8",
    "U8",
    "BOOL",
    "C64",
    "",
    "X",
    3,
    None,
)
NUMBERS = (
    -1,
    0,
    1,
    2,
    3,
    64,
    2**31,
    2**32,
    2**53,
    2**62,
    2**63,
    2**64 - 1,
    2**64,
    10**30,
    1.5,
    "8",
    None,
    True,
    [],
    {},
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A LoRA file of two modules."""
    modules = {
        f"lora_unet_mid_block_attentions_0_{name}": AdapterWeights(
            {"lora_down.weight": torch.ones(2, 8), "lora_up.weight": torch.ones(8, 2)}, 1.0
        )
        for name in ("proj_in", "proj_out")
    }
    file = tmp_path_factory.mktemp("sound") / "lora.safetensors"
    lora_file.write(file, modules, dtype=torch.float32, metadata={"ss_network_dim": "2"})
    return file.read_bytes()


def opened(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def closed(header: Any, data: bytes, *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def mutated(content: bytes, luck: random.Random) -> bytes:
    header, data = opened(content)
    header = copy.deepcopy(header)
    name = luck.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    match luck.randrange(14):
        case 0:
            entry["dtype"] = luck.choice(DTYPES)
        case 1:
            entry["shape"] = [luck.choice(NUMBERS) for _ in range(luck.randrange(6))]
        case 2:
            entry["data_offsets"] = [luck.choice(NUMBERS) for _ in range(luck.choice([0, 1, 2, 2, 2, 3]))]
        case 3:
            begin, end = entry["data_offsets"]
            entry["data_offsets"] = [begin + luck.randrange(-9, 9), end + luck.randrange(-9, 9)]
        case 4:
            entry["shape"] = entry["shape"][::-1] + [1] * luck.randrange(3)
        case 5:
            header[luck.choice(["", "a.b", "lora_unet_x.lora_down.weight", "x" * 3000, "\x00", "é😀"])] = header.pop(
                name
            )
        case 6:
            del entry[luck.choice(list(entry))]
        case 7:
            header[name] = luck.choice(NUMBERS)
        case 8:
            values = [3, None, [], {}, {"a": 1}, {"a": None}, "x", {"ss_network_dim": "x" * 5000}, {"": ""}]
            header["__metadata__"] = luck.choice(values)
        case 9:
            return closed(
                header, data, length=luck.choice([0, 1, 7, 8, 2**20, 10**8, 10**8 + 1, 2**31, 2**63, 2**64 - 1])
            )
        case 10:
            text = bytearray(json.dumps(header).encode())
            text[luck.randrange(len(text))] = luck.randrange(256)
            return closed(bytes(text), data)
        case 11:
            return content[: luck.randrange(len(content))]
        case 12:
            return closed(header, data[: luck.randrange(len(data))] + luck.randbytes(luck.randrange(50)))
        case _:
            damaged = bytearray(content)
            for _ in range(luck.randrange(1, 5)):
                damaged[luck.randrange(len(damaged))] = luck.randrange(256)
            return bytes(damaged)
    return closed(header, data)


def survives(file: Path) -> bool:
    """Whether any reader took it; anything but a result or a UserError is raised."""
    taken = False
    readers: list[Callable[[Path], object]] = [read_header, read_tensors, lora_file.read]
    for reader in readers:
        try:
            reader(file)
            taken = True
        except UserError as error:
            lines = str(error)
            assert str(file) in lines
            assert "memory" not in lines
    return taken


def peak() -> int:
    """The largest address space that this process has had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmPeak"))
    return int(line.split()[1]) << 10


def test_random_mutations(sound: bytes, tmp_path: Path) -> None:
    def run() -> tuple[int, int]:
        file, taken = tmp_path / "lora.safetensors", 0
        file.write_bytes(sound)
        assert survives(file)
        before = peak()
        resource.setrlimit(resource.RLIMIT_AS, (before + 4 * ROOM, resource.RLIM_INFINITY))
        for seed in range(RANDOM):
            file.write_bytes(mutated(sound, random.Random(seed)))
            taken += survives(file)
        return taken, peak() - before

    taken, grown = forked(run).returned()
    assert RANDOM / 50 < taken < RANDOM * 0.9
    assert grown < ROOM


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def pair(down: dict[str, Any], up: dict[str, Any], **more: dict[str, Any]) -> dict[str, Any]:
    return {"lora_unet_a.lora_down.weight": down, "lora_unet_a.lora_up.weight": up, **more}


def alpha(shape: list[int], data: bytes) -> bytes:
    """A sound LoRA but for its alpha."""
    return closed({**GOOD, "lora_unet_a.alpha": entry("F32", shape, 64, 64 + len(data))}, bytes(64) + data)


def factors(down: dict[str, Any], up: dict[str, Any], size: int) -> bytes:
    return closed(pair(down, up), bytes(size))


DOWN, UP = entry("F32", [2, 4], 0, 32), entry("F32", [4, 2], 32, 64)
GOOD = pair(DOWN, UP)
TWICE = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'
NO_LORA: dict[str, bytes] = {
    "empty file": b"",
    "no header": b"\x00" * 8,
    "seven bytes": b"\x01" * 7,
    "header longer than the file": closed(GOOD, bytes(64), length=10_000),
    "header above the format's limit": closed(GOOD, bytes(64), length=100_000_001),
    "header of 2^63 bytes": closed(GOOD, bytes(64), length=2**63),
    "header that is no JSON": closed(b"{'a': 1}", b""),
    "header that is a list": closed(b"[]", b""),
    "header that is a number": closed(b"7", b""),
    "header in UTF-16": closed("{}".encode("utf-16"), b""),
    "deep header": closed(b'{"a":' * 10_000, b""),
    "no tensors": closed({}, b""),
    "metadata alone": closed({"__metadata__": {"a": "b"}}, b""),
    "metadata that is no text": closed({"__metadata__": {"a": 1}, **GOOD}, bytes(64)),
    "a name twice": closed(TWICE, b"ab"),
    "overlapping": factors(DOWN, entry("F32", [4, 2], 16, 48), 48),
    "a hole": factors(DOWN, entry("F32", [4, 2], 40, 72), 72),
    "out of the file": closed(GOOD, bytes(63)),
    "more than the header tells of": closed(GOOD, bytes(65)),
    "backwards": factors(entry("F32", [2, 4], 32, 0), UP, 64),
    "shape and span differ": factors(entry("F32", [2, 5], 0, 32), UP, 64),
    "2^62 x 4": factors(entry("F32", [2**62, 4], 0, 32), UP, 64),
    "a product that wraps around": factors(entry("F32", [2**32, 2**32, 2], 0, 0), entry("F32", [4, 2], 0, 32), 32),
    "negative": factors(entry("F32", [-2, -4], 0, 32), UP, 64),
    "an unknown type": factors(entry("F128", [2, 4], 0, 128), entry("F32", [4, 2], 128, 160), 160),
    "rank mismatch": factors(DOWN, entry("F32", [4, 3], 32, 80), 80),
    "a single factor": closed({"lora_unet_a.lora_down.weight": DOWN}, bytes(32)),
    "an alpha that is a table": alpha([2], bytes(8)),
    "an empty alpha": alpha([0], b""),
    "an alpha that is not a number": alpha([], struct.pack("<f", float("nan"))),
    "an infinite alpha": alpha([], struct.pack("<f", float("inf"))),
    "rank 0": factors(entry("F32", [0, 4], 0, 0), entry("F32", [4, 0], 0, 0), 0),
    "factors of one dimension": factors(entry("F32", [8], 0, 32), entry("F32", [8], 32, 64), 64),
    "factors of whole numbers": factors(entry("I32", [2, 4], 0, 32), entry("I32", [4, 2], 32, 64), 64),
    "factors of truth values": factors(entry("BOOL", [2, 4], 0, 8), entry("BOOL", [4, 2], 8, 16), 16),
    "a pickle": b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "a zip archive": b"PK\x03\x04" + bytes(100),
    "a text": b"not a model at all, but long enough to have a header length",
    "HTML of a login page": b"<!DOCTYPE html><html><body>Please log in</body></html>" * 10,
    "a git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n",
}
LORA: dict[str, bytes] = {
    "a sound one": closed(GOOD, bytes(64)),
    "factors of NaN": closed(GOOD, struct.pack("<f", float("nan")) * 16),  # told by who uses it
    "an alpha of one number": alpha([1], struct.pack("<f", 2.0)),
    "half precision": factors(entry("F16", [2, 4], 0, 16), entry("BF16", [4, 2], 16, 32), 32),
}


@pytest.mark.parametrize("content", NO_LORA.values(), ids=NO_LORA)
def test_fixed_monsters(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "lora.safetensors"
    file.write_bytes(content)
    survives(file)
    with pytest.raises(UserError, match=r"lora\.safetensors"):
        lora_file.read(file)


@pytest.mark.parametrize("content", LORA.values(), ids=LORA)
def test_what_is_not_broken_is_read(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "lora.safetensors"
    file.write_bytes(content)
    assert survives(file)
    assert lora_file.read(file).modules
