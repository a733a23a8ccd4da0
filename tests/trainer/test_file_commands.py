"""The commands about finished files, through the command line's own code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.trainer import runs
from trainer import lora_file
from trainer.__main__ import main
from trainer.adapters.adapter_weights import delta


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a finished LoRA; the config's path."""
    file = runs.make_project(tmp_path_factory.mktemp("files") / "a project", images=3)
    runs.train(file, "save.dtype='fp32'", "training.steps=2")
    return file


def run(*arguments: object) -> int:
    before, sys.argv = sys.argv, ["trainer", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def result(project: Path) -> Path:
    return project.parent / "output" / "run" / "run.safetensors"


def test_inspect_tells_what_a_file_is(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", result(trained), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["rank"], found["alpha"]) == ("lora", 4, 2.0)
    assert found["metadata"]["ss_network_dim"] == "4"
    assert {"family", "prediction", "modules"} <= found.keys()
    assert run("inspect", trained) == 2


def test_loras_alone_are_merged_into_one(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merged, halved = tmp_path / "merged.safetensors", tmp_path / "halved.safetensors"
    both = (result(trained), result(trained))
    assert run("merge", *both, "-o", merged, "--strength", "1,0.5", "--dtype", "fp32") == 0
    assert run("merge", *both, "-o", halved, "--strength", "0.5", "--rank", 4, "--dtype", "fp32") == 0
    one = lora_file.read(result(trained)).modules
    for file, factor, rank in ((merged, 1.5, 8), (halved, 1.0, 4)):
        found = lora_file.read(file).modules
        assert found.keys() == one.keys()
        assert {weights.rank for weights in found.values()} == {rank}
        for name, weights in one.items():
            torch.testing.assert_close(delta(found[name]), factor * delta(weights), atol=1e-6, rtol=1e-4)
    assert run("merge", *both, "-o", merged) == 2  # never written over
    assert run("merge", *both, "-o", tmp_path / "none", "--strength", "1,2,3") == 2
    assert "--strength: found 3 numbers for 2 files" in capsys.readouterr().err
    base = trained.parent / "base"
    assert run("merge", base, "-o", tmp_path / "none") == 2
    assert run("merge", base, *both, "-o", tmp_path / "none", "--rank", 4) == 2
    assert run("merge", base, *both, "-o", tmp_path / "none", "--strength", "1,2,3") == 2
    assert "--strength: found 3 numbers for 2 files" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_resize_to_the_same_rank_keeps_the_change(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "resized.safetensors"
    assert run("resize", result(trained), "--rank", 4, "-o", output, "--dtype", "fp32") == 0
    one, other = lora_file.read(result(trained)).modules, lora_file.read(output).modules
    for name, weights in one.items():
        torch.testing.assert_close(delta(other[name]), delta(weights), atol=1e-5, rtol=1e-3)


def test_what_was_merged_can_be_extracted_again(trained: Path, tmp_path: Path) -> None:
    merged, extracted = tmp_path / "merged", tmp_path / "extracted.safetensors"
    base = trained.parent / "base"
    assert run("merge", base, result(trained), "-o", merged, "--dtype", "fp32") == 0
    assert run("extract", merged, base, "-o", extracted, "--rank", 4, "--dtype", "fp32") == 0
    one, other = lora_file.read(result(trained)).modules, lora_file.read(extracted).modules
    assert one.keys() == other.keys()
    for name, weights in one.items():
        torch.testing.assert_close(delta(other[name]), delta(weights), atol=1e-5, rtol=1e-2)


def test_sample_draws_a_column_for_each_strength(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "grid.png"
    small = ("--set", "samples={width=64,height=64,steps=2}", "--prompt", "a cat", "--prompt", "a dog")
    assert run("sample", trained, "--lora", result(trained), *small, "--strength", "0,0.5,1", "-o", output) == 0
    with Image.open(output) as sheet:
        assert sheet.size == (3 * (sheet.width // 3), 22 + 2 * 68)
        assert sheet.width // 3 >= 68, "a label may be wider than a tiny picture"
    assert run("sample", trained, "--lora", tmp_path / "none.safetensors", *small, "-o", tmp_path / "b.png") == 2
    assert run("sample", trained, *small, "--strength", "strong", "-o", tmp_path / "b.png") == 2
