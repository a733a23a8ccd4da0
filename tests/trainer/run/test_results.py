"""What a run writes in the end: LoRA file, folder, one file; never with NaN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from plugins.models.sd import StableDiffusion
from tests.tiny import tiny_sd
from tests.trainer.adapters.test_kinds import adapted
from trainer.errors import UserError
from trainer.run.results import FullResult, LoraResult


def test_a_full_fine_tune_is_a_folder_or_a_file_or_both(tmp_path: Path) -> None:
    base = tiny_sd(tmp_path / "base")
    family = StableDiffusion.load(str(base))
    for form, expected in (("folder", ["a"]), ("file", ["a.safetensors"]), ("both", ["a", "a.safetensors"])):
        result = FullResult(family, torch.float16, form, lambda: {"modelspec.title": "a"})
        path = result.save(tmp_path / form / "a", 1)
        assert sorted(p.name for p in (tmp_path / form).iterdir()) == expected
        StableDiffusion.load(str(path), tokenizer=str(base))
    with safe_open(tmp_path / "file" / "a.safetensors", "pt") as file:
        assert file.metadata()["modelspec.title"] == "a"


@pytest.mark.parametrize("form", ["folder", "file"])
def test_nan_is_never_saved_and_what_was_there_stays(tmp_path: Path, form: str) -> None:
    family = StableDiffusion.load(str(tiny_sd(tmp_path / "base")))
    result = FullResult(family, torch.float16, form)
    path = result.save(tmp_path / "out" / "a", 1)
    with torch.no_grad():
        family.unet.conv_out.bias[0] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        result.save(tmp_path / "out" / "a", 2)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [path.name]
    StableDiffusion.load(str(path), tokenizer=str(tmp_path / "base"))


def test_a_lora_is_one_file_with_its_metadata(tmp_path: Path) -> None:
    family = adapted(StableDiffusion, tiny_sd(tmp_path / "base"))
    path = LoraResult(family, torch.float16, lambda step: {"ss_steps": str(step)}).save(tmp_path / "a", 7)
    assert path == tmp_path / "a.safetensors"
    with safe_open(path, "pt") as file:
        assert file.metadata()["ss_steps"] == "7"
