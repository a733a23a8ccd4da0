"""What a run writes, each with a way to write one of two versions of it and to tell which one lies on the disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from trainer.adapters import lora_file
from trainer.batch import AdapterWeights
from trainer.errors import RunError, UserError
from trainer.files import atomic
from trainer.run import checkpoint
from trainer.samples import drawing


@dataclass(frozen=True)
class Artefact:
    write: Callable[[Path, int], object]  # (target, version)
    version: Callable[[Path], int | None]  # None where there is none; raises where it is neither
    name: str


def state(version: int, *, elements: int = 4000, step: int = 7) -> checkpoint.State:
    stream = torch.Generator().manual_seed(version)
    parameter = torch.nn.Parameter(torch.randn(elements, generator=stream))
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr": 0.1, "name": "unet"}])
    parameter.grad = torch.randn(elements, generator=stream)
    optimizer.step()
    weights = {"unet.w": parameter.detach(), "unet.v": torch.tensor(float(version))}
    return checkpoint.State(step, weights, optimizer.state_dict(), {"last_epoch": step}, {}, {"version": version})


def same_state(one: checkpoint.State, other: checkpoint.State) -> bool:
    a, b = checkpoint.stage(one), checkpoint.stage(other)
    equal = a.tensors.keys() == b.tensors.keys() and all(torch.equal(a.tensors[n], b.tensors[n]) for n in a.tensors)
    return equal and a.values == b.values


def _state_version(target: Path) -> int | None:
    found = checkpoint.load_newest(target.parent, lambda line: None)
    if found is None:
        return None
    version = int(found.weights["unet.v"])
    assert same_state(found, state(version))
    return version


def _adapter(version: int) -> dict[str, AdapterWeights]:
    stream = torch.Generator().manual_seed(version)
    tensors = {
        "lora_down.weight": torch.randn(4, 640, generator=stream),
        "lora_up.weight": torch.randn(640, 4, generator=stream),
    }
    return {"lora_unet_mid_block_attentions_0_proj_in": AdapterWeights(tensors, 2.0)}


def _write_lora(target: Path, version: int) -> None:
    lora_file.write(target, _adapter(version), dtype=torch.float32, metadata={"version": str(version)})


def _lora_version(target: Path) -> int | None:
    if not target.exists():
        return None
    found = lora_file.read(target)
    version = int(found.metadata["version"])
    for name, weights in _adapter(version).items():
        assert all(torch.equal(found.modules[name].tensors[leaf], t) for leaf, t in weights.tensors.items())
    return version


def _text(version: int) -> str:
    return f"version = {version}\n" * 3000


def _text_version(target: Path) -> int | None:
    if not target.exists():
        return None
    content = target.read_text()
    version = int(content.split("\n")[0].removeprefix("version = "))
    assert content == _text(version)
    return version


def _picture(version: int) -> Image.Image:
    return Image.frombytes("RGB", (64, 64), bytes((i * version) % 251 for i in range(64 * 64 * 3)))


def _picture_version(target: Path) -> int | None:
    if not target.exists():
        return None
    with Image.open(target) as opened:
        pixels = opened.convert("RGB").tobytes()
    return next(version for version in (1, 2) if pixels == _picture(version).tobytes())


def _write_folder(target: Path, version: int) -> None:
    def fill(folder: Path) -> None:
        (folder / "unet").mkdir()
        (folder / "unet" / "config.json").write_bytes(_text(version).encode())
        (folder / "model_index.json").write_bytes(_text(version).encode())

    atomic.write_folder(target, fill, validate=lambda folder: _whole(folder, version))


def _whole(folder: Path, version: int) -> None:
    if any(
        file.read_text() != _text(version) for file in (folder / "unet" / "config.json", folder / "model_index.json")
    ):
        raise OSError(None, "it reads back differently", str(folder))


def _folder_version(target: Path) -> int | None:
    if not target.exists():
        return None
    version = _text_version(target / "model_index.json")
    assert version is not None
    _whole(target, version)
    return version


def _write_text(target: Path, version: int) -> None:
    text = _text(version)

    def check(path: Path) -> None:
        if path.read_text() != text:
            raise OSError(None, "it reads back differently", str(path))

    atomic.write_file(target, lambda path: path.write_bytes(text.encode()), validate=check)


ARTEFACTS = {
    "checkpoint": Artefact(lambda t, v: checkpoint.save(t, state(v)), _state_version, "step-000007"),
    "lora": Artefact(_write_lora, _lora_version, "run.safetensors"),
    "config": Artefact(_write_text, _text_version, "config.toml"),
    "sample": Artefact(lambda t, v: drawing.save(_picture(v), t), _picture_version, "step-000007-00.png"),
    "model folder": Artefact(_write_folder, _folder_version, "run"),
}
DAMAGED = (RunError, UserError, OSError, AssertionError, ValueError)
