"""The commands about finished files, through the command line's own code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from tests.trainer import runs
from trainer.__main__ import main
from trainer.adapters import lora_file
from trainer.adapters.inspection import Inspection
from trainer.adapters.weights import delta
from trainer.adapters.weights import rank as rank_of
from trainer.commands import inspecting


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
    capsys.readouterr()
    assert run("inspect", result(trained)) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{result(trained)}: a lora of {found['modules']} modules for sd_v1")
    assert f"  rank      4, alpha 2 ({found['modules']} modules)" in told
    assert "Nothing in it is NaN, infinite or all zero." in told
    keys = [line.split()[0] for line in told if line.startswith(("  ss", "  modelspec.", "  immiscible_"))]
    assert keys == sorted(found["metadata"])


def test_what_is_broken_in_a_file_is_one_sentence() -> None:
    found = Inspection("lora", "a lora", modules=9, not_finite=("a", "b"), zero=tuple("cdefghi"))
    told = list(inspecting.lines(Path("x"), found))
    assert (
        "2 of 9 modules hold NaN or infinity: a, b; "
        "7 of 9 modules are zero and change nothing: c, d, e, f, g and 2 more." in told
    )


def test_convert_writes_kohyas_names_and_the_other_form_of_projections(trained: Path, tmp_path: Path) -> None:
    one = lora_file.read(result(trained)).modules
    other = {"unet." + n.removeprefix("lora_unet_").replace("mid_block_", "mid_block."): m for n, m in one.items()}
    safetensors.torch.save_file(lora_file.to_tensors(other, torch.float32), tmp_path / "d.safetensors")
    flat, back = tmp_path / "flat.safetensors", tmp_path / "back.safetensors"
    assert run("convert", tmp_path / "d.safetensors", "-o", flat, "--projections", "linear", "--dtype", "fp32") == 0
    assert run("convert", flat, "-o", back, "--projections", "convolution", "--dtype", "fp32") == 0
    two, four = lora_file.read(flat).modules, lora_file.read(back).modules
    assert two.keys() == four.keys() == one.keys()
    projections = {name for name in one if name.endswith(("_proj_in", "_proj_out"))}
    assert {name for name in one if two[name].down.ndim != four[name].down.ndim} == projections
    assert {four[name].up.ndim for name in projections} == {4} and {two[name].down.ndim for name in projections} == {2}
    assert all(torch.equal(delta(four[n]).flatten(), delta(m).flatten()) for n, m in one.items())


def test_loras_alone_are_merged_into_one(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merged, halved = tmp_path / "merged.safetensors", tmp_path / "halved.safetensors"
    both = (result(trained), result(trained))
    assert run("merge", *both, "-o", merged, "--strength", "1,0.5", "--dtype", "fp32") == 0
    assert run("merge", *both, "-o", halved, "--strength", "0.5", "--rank", 4, "--dtype", "fp32") == 0
    one = lora_file.read(result(trained)).modules
    for file, factor, rank in ((merged, 1.5, 8), (halved, 1.0, 4)):
        found = lora_file.read(file).modules
        assert found.keys() == one.keys()
        assert {rank_of(weights) for weights in found.values()} == {rank}
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


def test_what_is_made_of_files_tells_its_own_sizes(trained: Path, tmp_path: Path) -> None:
    small, both = tmp_path / "small.safetensors", tmp_path / "both.safetensors"
    assert run("resize", result(trained), "--rank", 2, "-o", small) == 0
    assert run("merge", result(trained), small, "-o", both) == 0
    told = lora_file.read(small).metadata
    assert (told["ss_network_dim"], told["ss_network_alpha"], told["ss_output_name"]) == ("2", "2.0", "small")
    assert "resized from rank 4 to 2" in told["ss_training_comment"]
    assert told["ss_learning_rate"] == lora_file.read(result(trained)).metadata["ss_learning_rate"]
    told = lora_file.read(both).metadata
    assert (told["ss_network_dim"], told["ss_network_alpha"], told["ss_output_name"]) == ("6", "6.0", "both")
    assert told["ss_base_model_version"] == "sd_v1" and "ss_learning_rate" not in told


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
        assert sheet.height == 22 + 2 * (18 + 64 + 8), "a line for the labels, and one for each row's prompt"
        whole = sheet.convert("L")
    rows = [whole.crop((0, top, whole.width, top + 18)).getextrema()[0] for top in (22, 22 + 90)]
    assert max(rows) < 128, "there is ink above each row"
    options = ("--width", 48, "--height", 32, "--steps", 1, "--sampler", "euler", "--guidance", 1, "--seed", 5)
    for number in (1, 2):  # never refused for an earlier one
        assert run("sample", trained, "--prompt", "a cat", *options) == 0
        with Image.open(trained.parent / f"output/run/sample-000{number}.png") as sheet:
            assert sheet.height == 22 + 18 + 32 + 8
    assert run("sample", trained, "--prompt", "a cat", "--steps", 0) == 2
    assert run("sample", trained, "--lora", tmp_path / "none.safetensors", *small, "-o", tmp_path / "b.png") == 2
    assert run("sample", trained, *small, "--strength", "strong", "-o", tmp_path / "b.png") == 2
