"""Marks and metadata of one-file checkpoints follow what was trained, and are understood in all spellings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from plugins.models import _marks
from plugins.models.sd import StableDiffusion
from plugins.models.sdxl import StableDiffusionXL
from tests.tiny import tiny_sd, tiny_sdxl
from trainer.adapters import injection
from trainer.commands import files

KINDS: dict[str, tuple[Any, Callable[..., Path]]] = {
    "sd1": (StableDiffusion, tiny_sd),
    "sd2": (StableDiffusion, lambda folder, **more: tiny_sd(folder, version=2, **more)),
    "sdxl": (StableDiffusionXL, tiny_sdxl),
}


def base(folder: Path, kind: str, **told: Any) -> tuple[Any, Path]:
    """The family, and a base in one file with its tokenizers beside it."""
    family, make = KINDS[kind]
    made = make(folder / "x", **told)
    for words in ("tokenizer", "tokenizer_2"):
        if (made / words).is_dir():
            shutil.copytree(made / words, folder / words)
    family.load(str(made)).save_file(folder / "base.safetensors", torch.float32, {})
    return family, folder / "base.safetensors"


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


def marks(file: Path) -> set[str]:
    return {name for name, tensor in load_file(file).items() if not tensor.numel()}


def bare(file: Path, told: dict[str, str]) -> Path:
    """The same without marks, and with this metadata alone."""
    found = file.with_name("bare.safetensors")
    save_file({n: t for n, t in load_file(file).items() if t.numel()}, found, told)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_marks_follow_objective_and_schedule_both_ways(tmp_path: Path, kind: str) -> None:
    family, file = base(tmp_path, kind)
    assert marks(file) == set()
    changed = family.load(str(file), prediction="velocity")
    changed.use_zero_terminal_snr(True)
    v = tmp_path / "v.safetensors"
    changed.save_file(v, torch.float32, {})
    assert marks(v) == {"v_pred", "ztsnr"}
    assert metadata(v)["modelspec.prediction_type"] == "v"
    again = family.load(str(v))
    assert again.prediction == "velocity" and again.schedule.alphas_cumprod[-1] == 0 and again.notes == ()
    again.use_zero_terminal_snr(False)
    again.save_file(tmp_path / "half.safetensors", torch.float32, {})
    assert marks(tmp_path / "half.safetensors") == {"v_pred"}
    back = family.load(str(v), prediction="epsilon")
    back.use_zero_terminal_snr(False)
    back.save_file(tmp_path / "back.safetensors", torch.float32, {})
    assert marks(tmp_path / "back.safetensors") == set()
    read = family.load(str(tmp_path / "back.safetensors"))
    assert read.prediction == "epsilon" and read.schedule.alphas_cumprod[-1] > 0


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("sd1", {"modelspec.prediction_type": "v"}),
        ("sdxl", {"modelspec.prediction_type": "V"}),
        ("sd2", {"modelspec.prediction_type": "v_prediction"}),
        ("sdxl", {"modelspec.prediction_type": "v-prediction"}),
        ("sd1", {"ss_v_parameterization": "True"}),
        ("sd2", {"ss_base_model_version": "sd_v2_v"}),
    ],
)
def test_a_merge_keeps_what_only_metadata_told(tmp_path: Path, kind: str, told: dict[str, str]) -> None:
    family, file = base(tmp_path, kind, prediction="v_prediction", zero_snr=True)
    given = bare(file, {**told, "ss_zero_terminal_snr": "True", "modelspec.title": "mine"})
    model = family.load(str(given))
    assert (model.prediction, model.notes) == ("velocity", ())
    for adapter in injection.inject(model, ["unet"], rank=2, alpha=1.0):
        torch.nn.init.normal_(adapter.weights.up, generator=torch.Generator().manual_seed(0))
    injection.save(model, tmp_path / "lora.safetensors", dtype=torch.float32, metadata={})
    files.merge([given, tmp_path / "lora.safetensors"], [1.0], 0, tmp_path / "out.safetensors", "fp32")
    merged = tmp_path / "out.safetensors"
    assert marks(merged) == {"v_pred", "ztsnr"}
    assert metadata(merged)["modelspec.title"] == "mine"
    again = family.load(str(merged))
    assert again.prediction == "velocity" and again.schedule.alphas_cumprod[-1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_tell_nothing_are_asked_and_a_note_says_so(tmp_path: Path, kind: str) -> None:
    family, file = base(tmp_path, kind)
    plain = family.load(str(bare(file, {})))
    assert plain.prediction == "epsilon" and "epsilon" in plain.notes[0]
    model = family.load(str(file), prediction="epsilon")
    with torch.no_grad():
        model.unet.conv_out.bias -= 2  # answers pure noise with something darker, as a v model does
    model.save_file(tmp_path / "dark.safetensors", torch.float32, {})
    asked = family.load(str(bare(tmp_path / "dark.safetensors", {})))
    assert asked.prediction == "velocity" and "velocity" in asked.notes[0]
    assert family.load(str(tmp_path / "bare.safetensors"), prediction="epsilon").notes == ()


def test_what_contradicts_the_model_is_not_carried_along() -> None:
    old = {
        "ss_v_parameterization": "True",
        "ss_base_model_version": "sd_v2_v",
        "modelspec.architecture": "stable-diffusion-v2-768-v",
        "modelspec.hash_sha256": "0xabc",
        "modelspec.author": "me",
    }
    found = _marks.told((), {**old, "ss_zero_terminal_snr": "True"}, {"rescale_betas_zero_snr": False}, "epsilon")
    assert found == {
        "modelspec.author": "me",
        "modelspec.prediction_type": "epsilon",
        "ss_zero_terminal_snr": "False",
    }
    assert _marks.stated_prediction((), found) == "epsilon"
