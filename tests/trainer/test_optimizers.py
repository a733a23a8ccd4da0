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
    "torch.optim.Adam": 1e-2, "SGDNesterov": 1e-2, "SGDNesterov8bit": 1e-2,
    **dict.fromkeys((
        "adamw", "adam", "sgd", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "radam", "asgd", "rprop",
        "adafactor", "adam8bit", "adamw8bit", "adamw32bit", "adagrad8bit", "rmsprop8bit", "lamb8bit",
        "pagedadam8bit", "pagedadamw", "pagedadamw8bit", "pagedadamw32bit", "ademamix", "ademamix8bit",
        "pagedademamix8bit", "adopt", "stableadamw", "adamwschedulefree", "radamschedulefree", "sgdschedulefree",
        "soap", "lamb", "adabelief", "adan", "dadaptadan", "madgrad", "mars", "tiger", "yogi", "adamp",
        "shampoo", "muon", "adamuon", "normuon",
    ), 1e-2),
    **dict.fromkeys(("lion", "lion8bit", "pagedlion8bit", "came"), 1e-3),
    "prodigy": 1.0,
}  # fmt: skip
ARGS: dict[str, dict[str, object]] = {}


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
    group = Group("unet", "unet", NAMES[name], list(model.parameters()))
    return optimizers.build(name, optimizers.split(name, [group]), ARGS.get(name, {}))


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
        ("lbfgs", {}, r"optimizer\.name: LBFGS asks for several passes"),
        ("AdaHessian", {}, r"optimizer\.name: AdaHessian needs second derivatives"),
        ("SophiaH", {}, "needs second derivatives"),
        ("torch.optim.SparseAdam", {}, "needs sparse gradients"),
        ("sgd8bit", {}, r"optimizer\.args: SGD8bit refused .*momentum"),
        ("adamw", {"betas": 3}, r"optimizer\.args: AdamW refused"),
    ):
        with pytest.raises(UserError, match=expected):
            optimizers.build(name, group, args)


def test_muon_gets_matrices_and_the_rest_apart() -> None:
    weights = [nn.Parameter(torch.zeros(shape)) for shape in ((4, 4), (4,), (4, 2, 3, 3))]
    halves = optimizers.split("Muon", [Group("unet", "unet", 1e-3, weights)])
    assert [(g.name, len(g.parameters), g.options) for g in halves] == [
        ("unet", 2, {"use_muon": True}),
        ("unet vectors", 1, {"use_muon": False}),
    ]
    assert optimizers.split("adamw", halves) == halves
