"""Whole runs with what [data] offers: the disk cache, posteriors, masks, workers, images without a cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from plugins.models._latent_diffusion import LatentDiffusion
from tests.trainer.runs import make_project, train, training
from trainer.assembly.run import PreparedRun
from trainer.batch import Batch
from trainer.commands import reports
from trainer.errors import UserError


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("data"))


@pytest.fixture
def run(project: Path, tmp_path: Path) -> Callable[..., PreparedRun]:
    return lambda *overrides: train(project, f"run.output_dir='{tmp_path}'", *overrides)


def weights(found: PreparedRun) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in found.loop.network.named_parameters() if p.requires_grad}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_disk_cache_and_workers_change_nothing(run: Callable[..., PreparedRun], tmp_path: Path) -> None:
    plain = weights(run("run.name=a", "data.workers=0"))
    assert any(float(w.abs().sum()) > 0 for name, w in plain.items() if "lora_B" in name)
    disk = ("data.cache_to_disk=true", f"data.cache_dir='{tmp_path / 'cache'}'")
    assert same(weights(run("run.name=b", *disk)), plain)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert before
    assert same(weights(run("run.name=c", *disk, "data.workers=3")), plain)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")} == before


def test_without_a_cache_the_same_images_train(run: Callable[..., PreparedRun]) -> None:
    live = weights(run("run.name=a", "data.cache_latents=false", "data.cache_text=false"))
    cached = weights(run("run.name=b"))
    assert live.keys() == cached.keys()
    assert all(torch.allclose(live[name], cached[name], atol=2e-3) for name in live)


def test_posterior_samples(project: Path, tmp_path: Path) -> None:
    def batches(sampling: str) -> list[Batch]:
        found = training(project, f"run.output_dir='{tmp_path / sampling}'", f"data.latent_sampling={sampling}")
        return [found.loader.batch(index) for index in (0, 1, 2, 0)]

    drawn = {sampling: batches(sampling) for sampling in ("mean", "once", "fresh")}
    for one in drawn.values():
        assert one[0].latents is not None and one[3].latents is not None
        assert torch.equal(one[0].latents, one[3].latents)
    first = {sampling: one[0].latents for sampling, one in drawn.items()}
    assert not torch.equal(first["mean"], first["once"])  # type: ignore[arg-type]
    assert not torch.equal(first["fresh"], first["once"])  # type: ignore[arg-type]


def test_masks_regularisation_and_mirrors_train(project: Path, run: Callable[..., PreparedRun]) -> None:
    masked = project.parent / "masked"
    masked.mkdir()
    picture = Image.new("RGBA", (64, 64), (200, 30, 40, 255))
    picture.putalpha(Image.linear_gradient("L").resize((64, 64)))
    picture.save(masked / "m.png")
    subsets = (
        "datasets[0].subsets=[{image_dir='photos', shuffle_caption=true, trigger='ohwx'}, "
        "{image_dir='masked', alpha_mask=true, mask_outside=0.1, flip_aug=true, class_tokens='cat', is_reg=true}]"
    )
    found = run("run.name=a", subsets, "data.prior_loss_weight=0.5")
    batches = [found.loader.batch(index) for index in range(found.loader.plan.batches_per_epoch)]
    assert any(batch.mask is not None for batch in batches)
    assert {weight for batch in batches for weight in batch.weights.tolist()} == {1.0, 0.5}
    assert all(c == "cat" or c.startswith("ohwx, ") for batch in batches for c in batch.captions)


def test_changing_views_need_no_cache(run: Callable[..., PreparedRun]) -> None:
    augmented = "datasets[0].subsets=[{image_dir='photos', color_aug=true, random_crop=true}]"
    with pytest.raises(UserError, match="color_aug: excludes cached latents"):
        run("run.name=a", augmented)
    found = run("run.name=b", augmented, "data.cache_latents=false")
    assert found.loader.batch(0).pixels is not None


def test_the_same_images_named_in_three_ways_train_the_same(project: Path, tmp_path: Path) -> None:
    """In tables, in a dataset file of their own, and by the names of folders."""
    tables = project.read_text()
    start = tables.index("[general]")
    folder = project.parent
    (folder / "train").mkdir()
    shutil.copytree(folder / "photos", folder / "train" / "1_cat")
    (folder / "sets.toml").write_text(tables[start:])
    ways = {
        "tables": tables.replace('image_dir = "photos"', 'image_dir = "train/1_cat"\nclass_tokens = "cat"'),
        "file": tables[:start] + "[data]\nconfig = 'sets.toml'\n",
        "folders": tables[:start]
        + "[data]\ntrain_data_dir = 'train'\n"
        + tables[start : tables.index("[[datasets]]")]
        + "resolution = 32\nbatch_size = 2\n",
    }
    trained = {}
    for name, text in ways.items():
        (folder / f"{name}.toml").write_text(text)
        trained[name] = weights(train(folder / f"{name}.toml", f"run.output_dir='{tmp_path / name}'"))
    assert same(trained["tables"], trained["folders"])
    assert same(trained["tables"], trained["file"])


def test_the_noise_report_reads_the_disk_cache(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(name: str, *overrides: str) -> dict[str, Any]:
        reports.noise(project, [f"run.output_dir='{tmp_path}'", f"run.name={name}", *overrides], images=8)
        found: dict[str, Any] = json.loads((tmp_path / name / "noise-report.json").read_text())
        return found

    def no_more(*_: object) -> None:
        raise AssertionError("an image was encoded that the cache holds")

    disk = ("data.cache_to_disk=true", f"data.cache_dir='{tmp_path / 'cache'}'")
    plain, filling = report("plain"), report("filling", *disk)
    monkeypatch.setattr(LatentDiffusion, "encode_images", no_more)
    reading = report("reading", *disk)
    assert "3 of 3 latents are there" in capsys.readouterr().out
    assert plain["images"] == filling["images"] == reading["images"] == 3
    assert plain["latent_rms"] == filling["latent_rms"] == reading["latent_rms"]
