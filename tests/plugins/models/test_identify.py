"""What a base is told to be, from folders and files, known and unknown."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from plugins.models import _hub
from plugins.models.sd import StableDiffusion
from plugins.models.sdxl import StableDiffusionXL
from tests.tiny import tiny_sd, tiny_sdxl
from trainer.errors import UserError


def claims(base: Path) -> tuple[bool, bool]:
    return StableDiffusion.recognises(str(base)) is not None, StableDiffusionXL.recognises(str(base)) is not None


def test_folders_and_files_are_claimed_by_one_family(tmp_path: Path) -> None:
    for kind, make, expected in (
        (StableDiffusion, tiny_sd, (True, False)),
        (StableDiffusionXL, tiny_sdxl, (False, True)),
    ):
        folder = make(tmp_path / kind.name)
        file = tmp_path / f"{kind.name}.safetensors"
        kind.load(str(folder)).save_file(file, torch.float16, {})
        assert claims(folder) == claims(file) == expected


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ({"model.diffusion_model.joint_blocks.0.x": 1}, "Stable Diffusion 3"),
        ({"double_blocks.0.img_attn.qkv.weight": 1}, "Flux"),
        ({"lora_unet_mid_block.lora_down.weight": 1}, "LoRA"),
        ({"unet.down_blocks.0.lora_A.weight": 1}, "LoRA"),
        ({"control_model.input_blocks.0.0.weight": 1}, "ControlNet"),
        ({"down_blocks.0.resnets.0.conv1.weight": 1}, "diffusers' names"),
        ({"model.diffusion_model.input_blocks.0.0.weight": 4}, "without text encoders"),
    ],
)
def test_what_no_family_trains_is_described_and_not_claimed(tmp_path: Path, names: dict[str, int], what: str) -> None:
    file = tmp_path / "x.safetensors"
    save_file({name: torch.ones(2, count) for name, count in names.items()}, file)
    assert claims(file) == (False, False)
    assert what in str(StableDiffusion.describes(str(file)))


def test_inpainting_is_claimed_image_editing_and_the_refiner_are_described(tmp_path: Path) -> None:
    file = tmp_path / "b.safetensors"
    StableDiffusion.load(str(tiny_sd(tmp_path / "b"))).save_file(file, torch.float16, {})
    content = load_file(file)
    for channels, claimed, what in ((9, True, "inpainting"), (8, False, "image editing")):
        content["model.diffusion_model.input_blocks.0.0.weight"] = torch.ones(32, channels, 3, 3)
        save_file(content, file)
        assert claims(file) == (claimed, False)
        assert what in str(StableDiffusion.describes(str(file)))
    unet = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(32, 4, 3, 3)}
    save_file({**unet, "conditioner.embedders.0.model.ln_final.bias": torch.ones(2)}, file)
    assert "refiner" in str(StableDiffusionXL.describes(str(file)))
    with pytest.raises(UserError, match="refiner"):
        StableDiffusionXL.load(str(file))


def test_a_folder_of_image_editing_is_described(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "in_channels": 8}))
    assert claims(folder) == (False, False)
    assert "image editing" in str(StableDiffusion.describes(str(folder)))
    config.write_text(json.dumps({**json.loads(config.read_text()), "in_channels": 9}))
    assert claims(folder) == (True, False)


def test_no_model_is_no_claim(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "readme.txt").write_text("hello")
    for base in ("pictures", "readme.txt", "missing.safetensors", "missing/folder"):
        assert claims(tmp_path / base) == (False, False)
    with pytest.raises(UserError, match=r"nobody/has-this-model: .* could not be had from the hub"):
        StableDiffusion.recognises("nobody/has-this-model")
    with pytest.raises(UserError, match="pictures"):
        StableDiffusion.load(str(tmp_path / "pictures"))
    with pytest.raises(UserError, match=r"missing\.safetensors"):
        StableDiffusion.load(str(tmp_path / "missing.safetensors"))


def test_a_hub_id_is_taken_from_the_cache_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--somebody--tiny"
    commit = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    tiny_sd(repository / "snapshots" / commit)
    assert "one text encoder" in str(StableDiffusion.recognises("somebody/tiny"))
    assert StableDiffusion.load("somebody/tiny").prediction == "epsilon"
    with pytest.raises(UserError, match=r"somebody/else.*hub"):
        StableDiffusion.load("somebody/else")


def test_what_the_cache_holds_of_a_hub_id_is_not_taken_for_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    asked = []

    def snapshot(repository: str, *, local_files_only: bool, **_: object) -> str:
        asked.append(local_files_only)
        folder = tmp_path / ("cached" if local_files_only else "whole")
        if not folder.exists():
            tiny_sd(folder)
        if local_files_only:
            for file in folder.rglob("*.safetensors"):
                file.unlink()
        return str(folder)

    monkeypatch.setattr(_hub, "snapshot_download", snapshot)
    assert StableDiffusion.load("somebody/tiny").prediction == "epsilon"
    assert asked == [True, False]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match=r"x\.safetensors"):
        StableDiffusion.recognises(str(tmp_path / "x.safetensors"))
