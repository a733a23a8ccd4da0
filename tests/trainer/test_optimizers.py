"""Every kind of optimizer trains a toy task, is saved and restored, and wrong names and arguments are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from trainer import checkpoint, optimizers
from trainer.errors import UserError
from trainer.parameters import Group

NAMES = {
    "adamw": 1e-2, "sgd": 1e-2, "rmsprop": 1e-2, "adamw8bit": 1e-2, "lion8bit": 1e-3, "pagedadamw8bit": 1e-2,
    "ademamix8bit": 1e-2, "prodigy": 1.0, "lion": 1e-3, "adafactor": 1e-2, "came": 1e-3, "adopt": 1e-2,
    "stableadamw": 1e-2, "adamwschedulefree": 1e-2, "soap": 1e-2, "torch.optim.Adam": 1e-2,
}  # fmt: skip


def task() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 256), nn.Tanh(), nn.Linear(256, 16))  # 4,096 weights: 8-bit states are used
    x = torch.randn(64, 16)
    return model, x, x.roll(1, 1)


def steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, count: int
) -> list[float]:
    losses = []
    for _ in range(count):
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


def make(name: str, model: nn.Module) -> torch.optim.Optimizer:
    return optimizers.build(name, [Group("unet", "unet", NAMES[name], list(model.parameters()))], {})


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_continues_bit_for_bit_after_a_checkpoint(name: str, tmp_path: Path) -> None:
    model, x, y = task()
    optimizer = make(name, model)
    if hasattr(optimizer, "train"):
        optimizer.train()
    losses = steps(model, optimizer, x, y, 30)
    assert losses[-1] < losses[0] * 0.98
    state = checkpoint.State(30, dict(model.named_parameters()), optimizer.state_dict(), {}, {}, {})
    checkpoint.save(tmp_path / "step-000030", state)
    went_on = steps(model, optimizer, x, y, 5)
    again, x, y = task()
    other = make(name, again)
    if hasattr(other, "train"):
        other.train()
    loaded = checkpoint.load(tmp_path / "step-000030")
    checkpoint.restore_weights(dict(again.named_parameters()), loaded.weights)
    other.load_state_dict(dict(loaded.optimizer))
    assert steps(again, other, x, y, 5) == went_on


def test_unknown_names_and_arguments_are_named() -> None:
    group = [Group("unet", "unet", 1e-3, [nn.Parameter(torch.zeros(2))])]
    for name, args, expected in (
        ("adamv", {}, r"optimizer\.name: found 'adamv'"),
        ("nowhere.Adam", {}, "cannot import 'nowhere'"),
        ("torch.optim.Adamm", {}, "has no class 'Adamm'"),
        ("adamw", {"weigth_decay": 0.1}, r"optimizer\.args\.weigth_decay: AdamW has no such argument"),
        ("adamw", {"betas": 3}, r"optimizer\.args: AdamW refused"),
    ):
        with pytest.raises(UserError, match=expected):
            optimizers.build(name, group, args)
