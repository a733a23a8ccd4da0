"""What `train` refuses, `check` refuses with the same lines and exit code, and nobody calls it ready."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.trainer import runs
from trainer.__main__ import main


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return runs.make_project(tmp_path / "a project", images=3)


def refused(command: str, project: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """(exit code, stderr)"""
    before, sys.argv = sys.argv, ["trainer", command, str(project), *(f for o in overrides for f in ("--set", o))]
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    lines = capsys.readouterr().err.splitlines()
    return code, "\n".join(line for line in lines if not line.endswith(" ..."))


def a_lora(folder: Path) -> None:
    save_file({"lora_unet_mid.lora_down.weight": torch.ones(4, 8)}, folder / "x.safetensors")


def a_vae(folder: Path) -> None:
    save_file({"encoder.conv_in.weight": torch.ones(4, 3, 3, 3)}, folder / "x.safetensors")


def a_web_page(folder: Path) -> None:
    (folder / "x.safetensors").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")


def nothing_in_it(folder: Path) -> None:
    (folder / "x.safetensors").touch()


def nothing(folder: Path) -> None:
    pass


def half_of_it(folder: Path) -> None:
    save_file({"model.diffusion_model.out.2.weight": torch.ones(4, 8)}, folder / "x.safetensors")
    whole = (folder / "x.safetensors").read_bytes()
    (folder / "x.safetensors").write_bytes(whole[:-40])


def a_cut_part(folder: Path) -> None:
    file = next((folder / "base/unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])


def a_pointer(folder: Path) -> None:
    (folder / "x.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 6938040682\n")


def a_file_where_results_go(folder: Path) -> None:
    (folder / "results").touch()


def no_pictures(folder: Path) -> None:
    (folder / "none").mkdir()


def a_torn_picture(folder: Path) -> None:
    file = folder / "photos/1.png"
    file.write_bytes(file.read_bytes()[:300])


def a_caption_in_latin(folder: Path) -> None:
    (folder / "photos/1.txt").write_bytes("Stra\u00dfe".encode("latin-1"))


def no_captions(folder: Path) -> None:
    for file in (folder / "photos").glob("*.txt"):
        file.unlink()


def prompts_that_are_none(folder: Path) -> None:
    (folder / "prompts.txt").write_text("a cat --w wide\n")


BASE, OTHER = "model.base='x.safetensors'", "run.output_dir='results'"
FOLDER = "datasets[0].subsets[0].image_dir"
HELD_OUT = "validation.datasets=[{resolution = 32, subsets = [{image_dir = 'none'}]}]"
RELATIVE = "(relative to {folder}, where the config file lies)"


@pytest.mark.parametrize(
    ("damage", "override", "expected"),
    [
        (a_lora, BASE, "model.base: 'x.safetensors' {relative} cannot be trained: it is a LoRA, not a base model."),
        (a_vae, BASE, "model.base: 'x.safetensors' {relative} cannot be trained: it is none of the models"),
        (a_web_page, BASE, "model.base: {folder}/x.safetensors: not a sound safetensors file of 48 bytes (it begins"),
        (
            nothing_in_it,
            BASE,
            "model.base: {folder}/x.safetensors: not a sound safetensors file of 0 bytes (it is empty",
        ),
        (half_of_it, BASE, "model.base: {folder}/x.safetensors: not a sound safetensors file of 192 bytes (it has 88 "),
        (
            a_pointer,
            BASE,
            "model.base: {folder}/x.safetensors: not a sound safetensors file of 72 bytes (it is Git LFS",
        ),
        (a_cut_part, "run.seed=1", "model.base: {folder}/base/unet/diffusion_pytorch_model.safetensors: not a sound"),
        (nothing, BASE, "model.base: there is no file or folder 'x.safetensors' {relative}."),
        (
            nothing,
            "model.family='sdxl'",
            "model.family: found 'sdxl', but 'base' {relative} is a diffusers folder with",
        ),
        (
            nothing,
            "model.vae='none.safetensors'",
            "model.vae: there is no file or folder 'none.safetensors' {relative}",
        ),
        (a_web_page, "model.vae='x.safetensors'", "model.vae: {folder}/x.safetensors: not a sound safetensors file"),
        (a_web_page, "lora.init_from='x.safetensors'", "lora.init_from: {folder}/x.safetensors: not a sound safetens"),
        (no_pictures, f"{FOLDER}='none'", f"{FOLDER}: no images in 'none' {RELATIVE} (looked for .png"),
        (nothing, f"{FOLDER}='run.toml'", f"{FOLDER}: 'run.toml' {RELATIVE} is a file, not a folder."),
        (no_pictures, HELD_OUT, "validation.datasets[0].subsets[0].image_dir: no images in 'none' {relative}"),
        (nothing, "samples.prompts='p.txt'", "samples.prompts: there is no file 'p.txt' {relative}."),
        (prompts_that_are_none, "samples.prompts='prompts.txt'", "samples.prompts: prompts.txt:1: --w: found 'wide'"),
        (nothing, "optimizer.args={weigth_decay=1}", "optimizer.args.weigth_decay: AdamW has no such argument"),
        (nothing, "optimizer.rates={'unet.down_block'=1}", "optimizer.rates.'unet.down_block': nothing in this base"),
        (nothing, "optimizer.windows={'vae'=[0, 1]}", "optimizer.windows.'vae': nothing in this base is called so"),
        (nothing, "lora.ranks={'unet.mid_block.attn'=4}", "lora.ranks.'unet.mid_block.attn': nothing in this base"),
        (
            nothing,
            "lora.layers=['atn1']",
            "lora.layers: found ['atn1'], but no layer of unet is called so (there are conv_in, ",
        ),
        (
            a_torn_picture,
            "run.seed=1",
            "{folder}/photos/1.png: truncated: the end of the PNG data is missing (data.skip",
        ),
        (a_caption_in_latin, "run.seed=1", "{folder}/photos/1.txt: not UTF-8 (byte 4 is 0xdf). Save it as UTF-8."),
        (no_captions, "run.seed=1", "datasets[0].subsets[0]: none of the 3 images in {folder}/photos has a caption (a"),
        (nothing, "model.clip_skip=9", "model.clip_skip: clip_skip = 9, but the text encoder has only"),
        (nothing, "general.min_bucket_reso=40", "datasets[0].min_bucket_reso: 40 exceeds the resolution 32"),
        (nothing, "general.bucket_reso_steps=128", "datasets[0].bucket_reso_steps: 128 is larger than the resolution"),
        (nothing, "general.bucket_reso_steps=9", "datasets[0].bucket_reso_steps: 9 is not a multiple of"),
        (nothing, "optimizer.name='adamv'", "optimizer.name: found 'adamv'"),
        (a_file_where_results_go, OTHER, "run.output_dir: nothing can be put into 'results' {relative}: {folder}/res"),
    ],
)
def test_train_and_check_refuse_the_same(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    override: str,
    expected: str,
) -> None:
    damage(project.parent)
    code, said = refused("train", project, [override], capsys)
    relative = RELATIVE.format(folder=project.parent)
    start = expected.format(folder=project.parent, relative=relative)
    assert (code, said[: len(start)]) == (2, start), said
    assert refused("check", project, [override], capsys) == (code, said)


def test_a_base_that_is_refused_is_no_ready_page(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also what only its parts can tell, which are looked at when the page is written."""
    assert refused("check", project, ["model.clip_skip=9"], capsys)[0] == 2
    page = (project.parent / "output/run/dataset-report.html").read_text(encoding="utf-8")
    assert "Training would not start because of 1 problem" in page
    assert "Training would start" not in page
