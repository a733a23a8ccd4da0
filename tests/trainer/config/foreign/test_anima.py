"""What sd-scripts' Anima scripts are told arrives as what they would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.config.foreign.test_sd_scripts import ours, outcome
from trainer.assembly.noise import timesteps_of
from trainer.batch import NoiseSchedule
from trainer.config import reading

ANIMA = {"network_module": "networks.lora_anima", "qwen3": "q.safetensors", "network_dim": 8, "learning_rate": 1e-4}


def test_a_lora_for_anima_is_known_by_its_keys_and_gets_its_scripts_defaults() -> None:
    found = ours(ANIMA)
    assert found["model.family"] == "anima"
    assert (found["model.text_encoder"], found["lora.method"], found["lora.alpha"]) == ("q.safetensors", "lora", 1.0)
    assert found["timesteps.distribution"] == "sigmoid"  # what is drawn where timestep_sampling is left out
    assert found["data.latent_sampling"] == "mean"
    assert "model.prediction" not in found


def test_a_full_fine_tune_has_no_network() -> None:
    found = ours({"qwen3": "q", "learning_rate": 1e-5})
    assert found["training.method"] == "full" and not found.get("training.text_encoder")


def test_what_its_scripts_do_not_read_has_no_effect_here_either() -> None:
    told = {**ANIMA, "noise_offset": 0.1, "min_snr_gamma": 5, "v_parameterization": True, "min_timestep": 200}
    assert ours(told) == ours(ANIMA)
    assert "does not read it" in outcome("noise_offset", told).why
    assert "does not read it" in outcome("qwen3", {**told, "network_module": "networks.lora"}, "train_network.py").why


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("timestep_sampling", "flux_shift", "by the size of each picture"),
        ("weighting_scheme", "cosmap", "no weight cosmap"),
        ("llm_adapter_path", "a.safetensors", "from the diffusion model's file"),
        ("t5_max_token_length", 256, "512 tokens"),
    ],
)
def test_what_would_train_something_else_is_told(name: str, value: Any, why: str) -> None:
    found = outcome(name, {**ANIMA, name: value})
    assert found.kind == "missing" and why in found.why


def drawn(told: dict[str, Any], normal: torch.Tensor, even: torch.Tensor) -> torch.Tensor:
    """The share of noise at each draw, by the formulas of library/flux_train_utils.py."""
    how, shift = told["timestep_sampling"], told.get("discrete_flow_shift", 1.0)
    if how == "uniform":
        return even
    if how == "sigma":
        of_noise = 1 - torch.sigmoid(told["logit_mean"] + told["logit_std"] * normal)
    else:
        of_noise = torch.sigmoid(told.get("sigmoid_scale", 1.0) * normal)
    return of_noise if how == "sigmoid" else shift * of_noise / (1 + (shift - 1) * of_noise)


@pytest.mark.parametrize(
    "told",
    [
        {"timestep_sampling": "uniform", "discrete_flow_shift": 3.0},
        {"timestep_sampling": "sigmoid", "sigmoid_scale": 0.5, "discrete_flow_shift": 3.0},
        {"timestep_sampling": "shift", "sigmoid_scale": 1.5, "discrete_flow_shift": 3.0},
        {"timestep_sampling": "sigma", "weighting_scheme": "logit_normal", "logit_mean": 0.6, "logit_std": 0.8,
         "discrete_flow_shift": 2.0},
    ],
    ids=lambda told: told["timestep_sampling"],
)  # fmt: skip
def test_times_are_drawn_as_often_as_there(told: dict[str, Any], tmp_path: Path) -> None:
    settings = {k: v for k, v in ours({**ANIMA, **told}).items() if k.startswith("timesteps.")}
    lines = "".join(f"\n{key} = {value!r}" for key, value in settings.items())
    config = reading.parse(f"model.base = 'b'\ndata.train_data_dir = 'd'{lines}", directory=tmp_path)
    count = 40_000
    generator = torch.Generator().manual_seed(0)
    found = timesteps_of(config, NoiseSchedule(1000)).draw(count, generator) / 1000
    normal, even = torch.randn(count, generator=generator), torch.rand(count, generator=generator)
    marks = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(
        found.float().quantile(marks), drawn(told, normal, even).quantile(marks), atol=0.01, rtol=0
    )
