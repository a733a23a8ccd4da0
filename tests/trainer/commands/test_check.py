"""`check`: says before a run what training will do with the data, and refuses what training would refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.trainer.runs import make_project, training
from trainer.__main__ import app
from trainer.adapters import injection
from trainer.assembly import run as assembled
from trainer.assembly.check import check
from trainer.assembly.model import open_family
from trainer.config import reading
from trainer.errors import UserError
from trainer.journal.console import Console

SMALL = ("datasets[0].resolution=32",)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    file = make_project(tmp_path)
    (tmp_path / "photos/0.txt").write_text("word " * 200)
    yield file


def test_what_is_said_is_what_trains(project: Path) -> None:
    config = reading.read(project, ["training.gradient_accumulation=2"])
    found = check(config, Console(quiet=True))
    run = training(project, "training.gradient_accumulation=2")
    assert found["images"] == len(run.loader.dataset.items) == 5
    assert sum(bucket["images"] for bucket in found["buckets"]) == 5
    assert found["steps"] == run.loop.pace.steps == 4
    assert found["steps_per_epoch"] == -(-run.loader.plan.batches_per_epoch // 2)
    assert found["captions"] == {"found": 5, "missing": 0, "empty": 0, "cut_off": 1}
    assert found["would_train"]
    del found["learning_rates"]  # not of the dataset
    assert json.loads((project.parent / "output/run/dataset-report.json").read_text()) == found


def test_it_lists_the_layers_that_train(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["lora.exclude=['unet\\.(down|mid)_.*']", "training.text_encoder=true", "optimizer.text_encoder_lr=5e-4"]
    check(reading.read(project, asked), Console())
    run = training(project, *asked)
    listed = (project.parent / "output/run/what-trains.txt").read_text().splitlines()
    live = [f"{a.part}.{a.module}\t{a.key}\trank 4, alpha 2" for a in injection.adapters(run.family)]
    assert [line.rpartition(",")[0] for line in listed] == live
    assert {line.rpartition(",")[2] for line in listed if line.startswith("text")} == {" learning rate 0.0005"}
    told = " ".join(capsys.readouterr().out.split())
    assert "trains: unet.up_blocks.0: 24 layers, rank 4, alpha 2, learning rate 0.001" in told
    assert f"trains: {len(live)} layers in all" in told


def test_the_report_alone_does_not_make_a_used_run(project: Path) -> None:
    check(reading.read(project), Console(quiet=True))
    training(project).run()


def test_all_broken_files_are_in_the_report(project: Path) -> None:
    photos = project.parent / "photos"
    (photos / "zero.png").touch()
    (photos / "1.txt").write_bytes(b"\xff\xfe\xfd")
    torn = photos / "torn.bmp"
    Image.new("RGB", (64, 64)).save(torn)
    torn.write_bytes(torn.read_bytes()[:-1000])
    (photos / "torn.txt").write_text("x")
    found = check(reading.read(project), Console(quiet=True))
    assert not found["would_train"]
    stopping = {Path(p["file"]).name for p in found["problems"] if p["stops"]}
    assert stopping == {"zero.png", "1.png", "torn.bmp"}
    assert found["images"] == 4


def test_without_a_base_tokens_are_not_counted(project: Path) -> None:
    found = check(reading.read(project, ["model.base='nowhere'"]), Console(quiet=True))
    assert found["captions"]["cut_off"] is None
    assert any(line.startswith("Tokens are not counted: model.base") for line in found["notes"])


def test_on_the_command_line(project: Path) -> None:
    done = CliRunner().invoke(app, ["check", str(project), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["images"] == 5 and found["would_train"]
    done = CliRunner().invoke(app, ["check", str(project)])
    assert "5 images, 5 samples in" in done.stdout and "dataset-report.html" in done.stdout
    (project.parent / "photos/zero.png").touch()
    done = CliRunner().invoke(app, ["check", str(project), "--json"])
    assert isinstance(done.exception, UserError)
    assert any("zero.png: the file is empty" in line for line in done.exception.problems)
    assert json.loads(done.stdout)["would_train"] is False


def test_a_cache_filled_ahead_is_used(project: Path) -> None:
    disk = ["--set", "data.cache_to_disk=true", "--set", "data.latent_sampling=fresh"]
    done = CliRunner().invoke(app, ["cache", str(project), *disk])
    assert done.exit_code == 0, done.output
    assert "0 of 5 latents are there" in done.stdout and "complete for 5 images" in done.stdout
    done = CliRunner().invoke(app, ["cache", str(project), *disk])
    assert "5 of 5 latents are there" in done.stdout
    run = training(project, "data.cache_to_disk=true", "data.latent_sampling=fresh")
    run.run()
    assert run.loader.batch(0).latents is not None
    done = CliRunner().invoke(app, ["cache", str(project)])
    assert isinstance(done.exception, UserError) and "data.cache_to_disk: false" in str(done.exception)


def test_the_noise_is_judged_for_latents_of_the_bases_own_shape(project: Path) -> None:
    """Not for those of Stable Diffusion, which a base may not have: its config tells."""
    config = reading.read(project, ["noise.oversampling=1024", "general.enable_bucket=false", *SMALL])
    shape = tuple(open_family(config).encode_images(torch.zeros(1, 3, 32, 32)).shape[1:])
    assert shape != (4, 4, 4)
    (note,) = [line for line in check(config, Console(quiet=True))["notes"] if line.startswith("noise.oversampling")]
    assert f"on these latents of {'x'.join(map(str, shape))} as" in note
    assert "(t = " in note, "by the base's own schedule"
    told: list[str] = []
    console = Console(quiet=True)
    console.say = told.append  # type: ignore[method-assign]
    assert assembled.training(config, console) is not None
    (trained,) = [line for line in told if line.startswith("note: noise.oversampling")]
    assert f"on these latents of {'x'.join(map(str, shape))} as" in trained
