"""score FOLDER REFERENCE: from files to numbers, in the features of a model that is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from trainer.commands.scoring import score
from trainer.errors import UserError
from trainer.reports.scores import features, pictures

CPU = torch.device("cpu")
USUAL: dict[str, Any] = {"side": 16, "range": "unit", "most": 0, "resamples": 20, "seed": 0}


def folder(place: Path, seed: int, count: int = 24, brighter: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for index in range(count):
        inner = place / ("a" if index % 2 else "b")
        inner.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 128, (16, 16, 3), dtype=np.uint8) + np.uint8(brighter)
        Image.fromarray(pixels).save(inner / f"{index}.png")
    return place


class Means(nn.Module):
    """Mean and deviation of each colour."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return torch.cat([x.mean([2, 3]), x.std([2, 3])], 1)[:, :, None, None]


def test_a_folder_against_itself_and_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = folder(tmp_path / "one", 1), folder(tmp_path / "other", 2)
    lighter = folder(tmp_path / "lighter", 3, brighter=100)
    torch.jit.script(Means()).save(str(tmp_path / "means.pt"))
    values = {}
    for name, place in (("itself", one), ("other", other), ("lighter", lighter)):
        score(place, one, str(tmp_path / "means.pt"), into=tmp_path / f"{name}.json", **USUAL)
        told = json.loads((tmp_path / f"{name}.json").read_text())
        assert told["pictures"] == [24, 24] and told["features"] == "means.pt (TorchScript, 16 x 16, unit)"
        values[name] = {s["name"]: s for s in told["scores"]}
    assert values["itself"]["Frechet distance"]["value"] == pytest.approx(0, abs=1e-9)
    assert values["itself"]["precision"]["value"] == 1.0
    distance = values["lighter"]["Frechet distance"]
    assert distance["value"] == pytest.approx(3 * (100 / 255) ** 2, rel=0.05)
    assert distance["low"] < distance["value"] < distance["high"] and distance["low"] > 0.3
    assert values["lighter"]["precision"]["value"] == values["lighter"]["recall"]["value"] == 0
    assert values["other"]["KID"]["low"] < 0 < values["other"]["KID"]["high"]
    assert "FID" not in capsys.readouterr().out


def test_without_a_model_the_features_are_called_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = folder(tmp_path / "one", 1), folder(tmp_path / "other", 2)
    score(one, other, "simple", into=None, **USUAL)
    told = capsys.readouterr().out
    assert "features: simple: means of 8 x 8 places in three colours; no network" in told
    assert "24 pictures against 24, 192 features" in told and "fewer pictures than features" in told


def test_clip_sees_pictures_as_transformers_prepares_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=8,
    )  # fmt: skip
    model = CLIPVisionModelWithProjection(config).eval()
    model.save_pretrained(tmp_path / "clip")
    paths = pictures.files(folder(tmp_path / "one", 1), 0, 0, "FOLDER")
    extractor = features.named(str(tmp_path / "clip"), side=1, range="unit", device=CPU)
    found = extractor.features(pictures.batches(paths, extractor.side), CPU)
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in paths]).permute(0, 3, 1, 2) / 255
    mean, deviation = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    given = (pixels - mean[:, None, None]) / deviation[:, None, None]
    with torch.no_grad():
        expected = model(pixel_values=given).image_embeds
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_some_of_many_are_chosen_by_the_seed(tmp_path: Path) -> None:
    place = folder(tmp_path / "one", 1)
    few = pictures.files(place, 5, 0, "FOLDER")
    assert len(set(few)) == 5 and few == pictures.files(place, 5, 0, "FOLDER") != pictures.files(place, 5, 1, "FOLDER")
    assert len(pictures.files(place, 0, 0, "FOLDER")) == len(pictures.files(place, 99, 0, "FOLDER")) == 24


def test_what_cannot_be_scored_is_named(tmp_path: Path) -> None:
    one, few = folder(tmp_path / "one", 1), folder(tmp_path / "few", 1, count=3)
    broken = folder(tmp_path / "broken", 1)
    (broken / "a" / "1.png").write_bytes(b"no")
    (tmp_path / "text.pt").write_text("no")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "config.json").write_text('{"model_type": "bert"}')
    for place, model, told in (
        (tmp_path / "gone", "simple", "FOLDER: there is no folder"),
        (few, "simple", "3 pictures in it; 16 are needed"),
        (broken, "simple", "1.png: cannot be read as a picture"),
        (one, "inception", "--features: there is no file or folder 'inception'. Expected 'simple'"),
        (one, str(tmp_path / "text.pt"), "--features: text.pt is no TorchScript file"),
        (one, str(tmp_path / "none"), "holds no CLIP model"),
    ):
        with pytest.raises(UserError) as error:
            score(place, one, model, into=None, **USUAL)
        assert told in str(error.value)
