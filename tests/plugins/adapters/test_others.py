"""Adapters of OneTrainer and peft, against peft's own layers and formulas spelled out; what is not read is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, OFTConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

from trainer.adapters import inspection, lora_file
from trainer.adapters.weights import change
from trainer.batch import MAGNITUDE, AdapterWeights
from trainer.errors import UserError


def rotation(numbers: torch.Tensor, side: int) -> torch.Tensor:
    """(side, side) of one block: the Cayley transform's series to the fourth power, term by term."""
    q = torch.zeros(side, side)
    q[tuple(torch.triu_indices(side, side, 1))] = numbers
    q = q - q.T
    return torch.eye(side) + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q


@torch.no_grad()
def test_onetrainers_oft_of_linear_layers_is_that_of_peft() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8))
    base = model[0].weight.clone()
    made = get_peft_model(model, OFTConfig(target_modules=["0"], oft_block_size=4, r=0, use_cayley_neumann=True))
    layer: Any = made.base_model.model[0]
    blocks = layer.oft_R["default"].weight
    blocks += 0.1 * torch.randn(blocks.shape)
    layer.merge()
    found = change(AdapterWeights({"oft_R.weight": blocks.clone()}, 0.0), base)
    torch.testing.assert_close(base + found, layer.base_layer.weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
def test_onetrainers_oft_of_convolutions_shared_and_scaled(scaled: bool) -> None:
    stream = torch.Generator().manual_seed(0)
    base, numbers = torch.randn(5, 4, 3, 3, generator=stream), 0.1 * torch.randn(1, 15, generator=stream)
    tensors = {"oft_R.weight": numbers} | ({"oft_R.scaled_oft": torch.tensor(True)} if scaled else {})
    turned = rotation(numbers[0] / (2 * 5**0.5 if scaled else 1), 6)
    wanted = torch.stack([row.reshape(6, 6) @ turned for row in base.reshape(5, 36)]).reshape(base.shape)
    torch.testing.assert_close(base + change(AdapterWeights(tensors, 0.0), base), wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_pefts_magnitudes_are_of_outputs_on_square_layers_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Linear(8, 8))
    bases = {name: p.clone() for name, p in model.named_parameters()}
    made = get_peft_model(model, LoraConfig(target_modules=["0", "1"], r=2, lora_alpha=4, use_dora=True))
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter += 0.2 * torch.rand(parameter.shape)
    save_file(peft.get_peft_model_state_dict(made), tmp_path / "a.safetensors")
    file = lora_file.read(tmp_path / "a.safetensors")
    made.merge_adapter()
    for name, weights in file.modules.items():
        layer: Any = made.base_model.model[int(name)]
        found = change(AdapterWeights(weights.tensors, 4.0), bases[f"{name}.weight"])
        assert weights.tensors[MAGNITUDE].shape == (8, *(1,) * (layer.weight.ndim - 1))
        torch.testing.assert_close(bases[f"{name}.weight"] + found, layer.weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("base_model.model.mid_block.to_q.oft_R.weight", "an OFT of peft"),
        ("base_model.model.mid_block.to_q.ia3_l", "an IA3 of peft"),
        ("lora_unet_mid_block.oft_diag", "an OFT of LyCORIS before version 2"),
        ("diffusion_model.middle_block.set_weight", "whole weights"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, name: str, what: str) -> None:
    save_file({name: torch.ones(2, 6)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=f"{what}.*not read here"):
        lora_file.read(tmp_path / "a.safetensors")
    found = inspection.inspect(tmp_path / "a.safetensors")
    assert found.kind == "lora" and what in found.what and found.parameters == 12
