"""What `inspect` tells about LoRA files, checkpoints and folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from plugins.models.sd import StableDiffusion
from plugins.models.sdxl import StableDiffusionXL
from tests.tiny import tiny_sd, tiny_sdxl
from tests.trainer.adapters.test_kinds import adapted
from trainer.adapters import injection
from trainer.adapters.inspection import inspect
from trainer.errors import UserError


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr"])
def test_a_lora_is_told_with_its_sizes(tmp_path: Path, method: str) -> None:
    family = adapted(StableDiffusionXL, tiny_sdxl(tmp_path / "b"), method)
    file = tmp_path / "a.safetensors"
    injection.save(
        family, file, dtype=torch.float16, metadata={"ss_output_name": "x", "modelspec.prediction_type": "v"}
    )
    found = inspect(file)
    assert (found.kind, found.family, found.method) == ("lora", "sdxl", method)
    assert found.base_version == "sdxl_base_v1-0" and found.prediction == "velocity"
    assert found.modules == 143 and found.not_finite == () and found.zero == ()
    assert found.metadata["ss_output_name"] == "x"
    if method != "lokr":
        assert (found.rank, found.alpha) == (4, 2.0)
        assert sum(found.ranks.values()) == 143 and set(found.ranks) == {"rank 4, alpha 2", "rank 2, alpha 3"}


def test_broken_and_idle_modules_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    injection.save(adapted(StableDiffusion, tiny_sd(tmp_path / "b")), file, dtype=torch.float32, metadata={})
    tensors = load_file(file)
    names = sorted(n for n in tensors if n.endswith("lora_up.weight"))
    tensors[names[0]][0] = float("inf")
    tensors[names[1]].zero_()
    save_file(tensors, file)
    found = inspect(file)
    assert found.not_finite == (names[0].partition(".")[0],)
    assert found.zero == (names[1].partition(".")[0],)
    assert found.family == "sd"


def family_of(kind: Any, folder: Path, file: Path) -> Any:
    kind.load(str(folder)).save_file(file, torch.float16, {"modelspec.title": "t"})
    return inspect(file)


def test_checkpoints_and_folders_are_told_with_their_prediction(tmp_path: Path) -> None:
    folder = tiny_sdxl(tmp_path / "x", prediction="v_prediction", zero_snr=True)
    found = family_of(StableDiffusionXL, folder, tmp_path / "x.safetensors")
    assert (found.kind, found.family, found.prediction) == ("checkpoint", "sdxl", "velocity")
    assert found.metadata["modelspec.title"] == "t" and found.dtypes["F16"] > 400
    assert inspect(folder).prediction == "velocity" and inspect(folder).kind == "diffusers folder"
    assert inspect(folder).parameters > 100_000
    second = tiny_sd(tmp_path / "s", version=2)
    assert family_of(StableDiffusion, second, tmp_path / "s.safetensors").prediction is None
    assert inspect(second).prediction == "epsilon"


def test_a_nan_in_a_checkpoint_is_named(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_out.bias"][1] = float("nan")
    save_file(tensors, file)
    assert inspect(folder).not_finite == ("unet/diffusion_pytorch_model.safetensors: conv_out.bias",)


def test_other_things(tmp_path: Path) -> None:
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.ones(2)}, tmp_path / "f.safetensors")
    found = inspect(tmp_path / "f.safetensors")
    assert (found.kind, found.family) == ("tensors", None) and "Flux" in found.what
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    assert "no known model" in inspect(tmp_path / "x.safetensors").what
    for missing in ("nothing", "."):
        with pytest.raises(UserError):
            inspect(tmp_path / missing)


def test_the_json_has_the_promised_keys(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    injection.save(adapted(StableDiffusion, tiny_sd(tmp_path / "b")), file, dtype=torch.float16, metadata={})
    told = json.loads(json.dumps(inspect(file).as_json()))
    assert {"kind", "family", "prediction", "rank", "alpha", "modules", "metadata"} <= told.keys()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_lora_of_eight_bits_is_told_too(tmp_path: Path, dtype: torch.dtype) -> None:
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{stem}.lora_down.weight": torch.ones(4, 16), f"{stem}.lora_up.weight": torch.ones(16, 4)}
    file = tmp_path / "small.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, file)
    found = inspect(file)
    assert (found.rank, found.not_finite, found.zero) == (4, (), ())
    tensors[f"{stem}.lora_up.weight"][:] = 0
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, file)
    assert inspect(file).zero == (stem,)
