"""The papers' Stable Diffusion: a random UNet under pretrained text encoders, classes as captions, pictures of each."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.tiny import tiny_sd
from tests.trainer import runs
from trainer.commands.class_sampling import sample_classes, wanted
from trainer.commands.sampling import sample
from trainer.config import reading
from trainer.errors import UserError

CONFIG = """
[run]
name = "run"
device = "cpu"
[model]
base = "base"
init = "unet"
classes = "photos"
[training]
method = "full"
steps = 1
preflight = false
[optimizer]
name = "adamw"
lr = 1e-4
[samples]
steps = 1
width = 16
height = 16
guidance = 2
[save]
dtype = "fp32"
[logging]
tensorboard = false
[data]
class_dir = "photos"
[general]
resolution = 16
batch_size = 2
"""
CLASSES = ("goldfish, Carassius auratus", "tench")


def project(folder: Path) -> Path:
    tiny_sd(folder / "base")
    random = np.random.default_rng(0)
    for index in range(4):
        place = folder / "photos" / CLASSES[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(place / f"{index}.png")
    (folder / "run.toml").write_text(CONFIG)
    return folder / "run.toml"


def weights(folder: Path, part: str) -> dict[str, torch.Tensor]:
    return load_file(next((folder / part).glob("*.safetensors")))


def alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_from_scratch_and_then_pictures_of_each_class(tmp_path: Path) -> None:
    config = project(tmp_path)
    with pytest.raises(UserError, match=r"model\.init: weights are random before the training, and its result"):
        sample_classes(config, [], None, 1.0, 2, 4, tmp_path / "drawn")
    runs.train(config, "noise.oversampling=64")
    result, base = tmp_path / "output" / "run" / "run", tmp_path / "base"
    assert alike(weights(result, "text_encoder"), weights(base, "text_encoder"))
    assert not alike(weights(result, "unet"), weights(base, "unet"))

    folder = sample_classes(config, [], None, 1.0, 2, 4, tmp_path / "drawn")
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"{stem}-0000{i}.png" for stem in ("goldfish_ Carassius auratus", "tench") for i in (0, 1)]
    before = {name: (folder / name).read_bytes() for name in names}
    assert len(set(before.values())) == 4
    (folder / names[3]).unlink()
    (folder / names[0]).write_bytes(b"kept")
    sample_classes(config, [], None, 1.0, 2, 1, folder)
    assert (folder / names[0]).read_bytes() == b"kept"
    again, first = (
        np.asarray(Image.open(source)).astype(int) for source in (folder / names[3], BytesIO(before[names[3]]))
    )
    assert np.abs(again - first).max() <= 1  # drawn alone instead of with three others
    sample(config, [], None, ["tench"], [1.0], tmp_path / "grid.png")
    assert (tmp_path / "grid.png").is_file()


def test_assignment_goes_on_from_the_pretrained_unet(tmp_path: Path) -> None:
    config = project(tmp_path)
    asked = ("model.init=pretrained", "noise.assignment.pool=step", "optimizer.lr=1e-9", "training.precision=fp32")
    runs.train(config, *asked)
    result, base = tmp_path / "output" / "run" / "run", tmp_path / "base"
    moved = [(t - weights(base, "unet")[name]).abs().max() for name, t in weights(result, "unet").items()]
    assert 0 < max(moved) < 1e-6


def test_what_is_drawn_follows_from_the_class_and_its_number(tmp_path: Path) -> None:
    project(tmp_path)

    def asked(count: int, *changes: str) -> dict[str, int]:
        config = reading.read(tmp_path / "run.toml", changes)
        return {one.file.name: one.request.seed for one in wanted(config, count, tmp_path)}

    few, more = asked(2), asked(5)
    assert len(set(more.values())) == 10 and few.items() <= more.items()
    alone = asked(2, "model.classes=['tench']")
    assert alone.items() <= few.items()
    assert not few.items() & asked(2, "samples.seed=7").items()
    prompts = asked(1, "model.classes=[]", "samples.prompts=['a dog', '']")
    assert list(prompts) == ["a dog-00000.png", "picture-00000.png"]
    with pytest.raises(UserError, match="the files of 'a/b' and 'a:b' would have one name"):
        asked(1, "model.classes=['a/b', 'a:b']")
    with pytest.raises(UserError, match="--per-class: there is nothing to draw"):
        asked(1, "model.classes=[]")
