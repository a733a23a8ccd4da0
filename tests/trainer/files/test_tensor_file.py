"""Weight files that are damaged or lie: always one clear error, never a traceback."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trainer.adapters import lora_file
from trainer.errors import UserError
from trainer.files.tensor_file import read_header, read_json, read_tensors

CASES = 1000
VALUES = (
    [2**63, 1], [-1], [0], [0, 0], "F8_E4M3", "F64", "I64", [0, 10**15], [5, 1], None, 1e308, [[1]], {"a": 1}, "BOOL",
    [2**40], [1] * 1000,
)  # fmt: skip


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The file with flipped bytes, cut off, or with a header that says something else."""
    length = struct.unpack("<Q", content[:8])[0]
    kind = chance.randrange(4)
    if kind == 0:
        changed = bytearray(content)
        for _ in range(chance.randint(1, 6)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed)
    if kind == 1:
        return content[: chance.randrange(len(content))]
    header = json.loads(content[8 : 8 + length])
    for _ in range(chance.randint(1, 3)):
        name = chance.choice(list(header))
        if isinstance(header[name], dict) and "dtype" in header[name]:
            header[name][chance.choice(["dtype", "shape", "data_offsets"])] = chance.choice(VALUES)
        else:
            header[name] = chance.choice([{"a": 1}, "x", None, [1]])
    text = json.dumps(header).encode()
    said = chance.choice([0, 2**63, 2**32, len(text) + 5, 100_000_001]) if kind == 3 else len(text)
    return struct.pack("<Q", said) + text + content[8 + length :]


def test_no_mutation_of_a_file_gives_anything_but_a_listed_error(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    tensors = {
        "m.lora_down.weight": torch.ones(4, 8),
        "m.lora_up.weight": torch.ones(8, 4),
        "m.alpha": torch.tensor(2.0),
    }
    save_file(tensors, file, {"ss_x": "1"})
    content = file.read_bytes()
    chance = random.Random(0)
    refused = 0
    for _ in range(CASES):
        file.write_bytes(mutated(content, chance))
        try:
            lora_file.read(file)
        except UserError as error:
            refused += 1
            assert str(file) in str(error)
    assert CASES * 0.8 < refused < CASES


def test_only_what_is_wanted_is_read_and_is_a_copy(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(3), "b": torch.ones(3)}, file, {"x": "y"})
    found = read_tensors(file, lambda name: name == "b")
    save_file({"a": torch.zeros(3), "b": torch.full((3,), 9.0)}, file)
    assert found.keys() == {"b"} and found["b"].tolist() == [1, 1, 1]
    assert read_header(file).shapes == {"a": (3,), "b": (3,)}


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_json_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json"):
        read_json(tmp_path / "config.json")
