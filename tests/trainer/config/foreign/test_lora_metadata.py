"""A finished LoRA's metadata, as different versions of sd-scripts write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.config.foreign import lora_metadata
from trainer.config.foreign.translate import translate

LEAST = {"ss_learning_rate": "0.0001", "ss_network_module": "networks.lora", "ss_sd_model_name": "base.safetensors"}


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({"ss_text_encoder_lr": "[5e-05]"}, {"optimizer.text_encoder_lr": 5e-5}),
        ({"ss_text_encoder_lr": "[5e-05, 1e-05]"}, {"optimizer.text_encoder_lr": 5e-5}),
        ({"ss_text_encoder_lr": "None"}, {"optimizer.text_encoder_lr": 1e-4}),
        ({"ss_v_parameterization": "True"}, {"model.prediction": "v"}),
        ({"ss_v_parameterization": "False"}, {"model.prediction": "epsilon"}),
        ({"ss_base_model_version": "sd_v2_v", "ss_v2": "True"}, {"model.prediction": "v"}),
        ({"ss_base_model_version": "sdxl_base_v1-0", "modelspec.prediction_type": "V"}, {"model.prediction": "v"}),
        ({"ss_resolution": "(512, 768)"}, {"general.resolution": [512, 768]}),
    ],
)
def test_its_spellings_are_read(told: dict[str, str], wanted: dict[str, Any]) -> None:
    weights = {f"lora_{part}_x.lora_down.weight": {"dtype": "F16"} for part in ("te", "unet")}
    header = {"__metadata__": {**LEAST, **told}, **weights}
    found = translate(lora_metadata.source(header, Path("a.safetensors"), Path())).settings
    assert {key: found[key].value for key in wanted} == wanted


def test_a_resized_files_rank_is_its_largest_and_its_alpha_is_told_as_lost() -> None:
    shapes = {"lora_unet_a": [8, 4], "lora_unet_b": [3, 4, 1, 1], "lora_te_c": [16, 4, 3, 3]}
    weights = {f"{name}.lora_down.weight": {"dtype": "F16", "shape": shape} for name, shape in shapes.items()}
    told = {**LEAST, "ss_network_dim": "Dynamic", "ss_network_alpha": "Dynamic"}
    found = translate(lora_metadata.source({"__metadata__": told, **weights}, Path("a.safetensors"), Path()))
    assert found.settings["lora.rank"].value == 8
    assert [entry.name for entry in found.entries if entry.outcome.kind == "missing"] == ["ss_network_alpha"]
