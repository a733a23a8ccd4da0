"""A step whose gradients are not finite leaves no trace, in whatever way it is skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.optim import optimizers
from trainer.optim.finite_update import FiniteUpdate, OnDevice, Scaled, Undo, Waiting, choose
from trainer.optim.parameters import Group

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OPTIMIZERS: dict[str, tuple[float, dict[str, Any]]] = {
    "adamw": (1e-2, {"foreach": True}), "sgd": (1e-2, {"momentum": 0.9}), "rmsprop": (1e-2, {}),
    "adamw8bit": (1e-2, {}), "lion": (1e-3, {}), "adafactor": (1e-2, {}), "prodigy": (1.0, {}), "came": (1e-3, {}),
    "adamwschedulefree": (1e-2, {}), "soap": (1e-2, {}), "adopt": (1e-2, {}),
}  # fmt: skip


def make(name: str, args: dict[str, Any], lr: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 256), nn.Tanh(), nn.Linear(256, 16))
    optimizer = optimizers.build(name, [Group("unet", "unet", lr, list(model.parameters()))], args)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return model, optimizer


def take(model: nn.Module, update: FiniteUpdate, step: int, spoiled: float | None = None) -> None:
    """One step on data of its own; `spoiled` stands in a gradient then."""
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(step))
    model.zero_grad()
    nn.functional.mse_loss(model(x), x.roll(1, 1)).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if spoiled is not None:
        gradients[1][3] = spoiled
    finite = torch.stack([g.isfinite().all() for g in gradients]).all()
    update.apply(finite)
    update.settle(spoiled is None)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    state = optimizer.state_dict()
    flat: list[Any] = [p.detach().clone() for p in model.parameters()]
    return [*flat, state["state"], *(v for g in state["param_groups"] for k, v in g.items() if k != "params")]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return bool(one == other)


def check(way: Callable[[torch.optim.Optimizer], FiniteUpdate], name: str, args: dict[str, Any], lr: float) -> None:
    """Three good steps, with bad ones before, between and after them or not."""
    ends = []
    for bad in ({}, {0: float("nan"), 2: float("inf"), 3: float("nan"), 5: -float("inf")}):
        model, optimizer = make(name, args, lr)
        update = way(optimizer)
        for step in range(6):
            if step in bad:
                take(model, update, step, bad[step])
            elif step in (1, 4):
                take(model, update, step)
        ends.append(everything(model, optimizer))
    assert same(*ends)
    assert all(bool(t.isfinite().all()) for t in ends[0] if isinstance(t, Tensor))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("way", [Undo, Waiting])
def test_a_skipped_step_leaves_no_trace(name: str, way: type[Undo | Waiting]) -> None:
    lr, args = OPTIMIZERS[name]
    check(way, name, args, lr)


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_fused_kernels_skip_by_themselves(name: str) -> None:
    check(OnDevice, name, {"weight_decay": 0.1}, 1e-2)


def test_a_step_that_is_taken_is_the_optimizers_own() -> None:
    for way, name, args in ((Undo, "lion", {}), (OnDevice, "adamw", {}), (Undo, "adamw", {"foreach": True})):
        model, optimizer = make(name, args, 1e-2)
        plain, reference = make(name, args, 1e-2)
        for step in range(3):
            take(model, way(optimizer), step)
            take(plain, Waiting(reference), step)
        assert same(everything(model, optimizer), everything(plain, reference))


def test_kernels_that_came_with_a_checkpoint_are_asked_about() -> None:
    """A checkpoint may bring groups without fused kernels, which would not look at the flag."""
    model, optimizer = make("adamw", {}, 1e-2)
    update = OnDevice(optimizer)
    for group in optimizer.param_groups:
        group["fused"] = None
    before = [p.detach().clone() for p in model.parameters()]
    take(model, update, 0, float("nan"))
    assert same(before, [p.detach() for p in model.parameters()])


def test_the_way_that_costs_least_is_chosen() -> None:
    def chosen(name: str, args: dict[str, Any] | None = None, **given: Any) -> FiniteUpdate:
        _, optimizer = make(name, args or {}, 1e-2)
        return choose(optimizer, **{"scaled": False, "small": True, "device": CUDA, **given})

    assert isinstance(chosen("adamw"), OnDevice)
    assert isinstance(chosen("adamw", {"fused": False}), Undo)
    assert isinstance(chosen("lion"), Undo)
    assert isinstance(chosen("sgd", {"fused": True, "momentum": 0.9}), Undo)
    for name, given, waits in (
        ("lion", {"small": False}, True),
        ("pagedadamw8bit", {}, True),
        ("lion", {"device": CPU}, False),  # there is nothing to wait for
    ):
        update = chosen(name, **given)
        assert isinstance(update, Waiting)
        assert update.waits is waits
    scaled = chosen("adamw", scaled=True)
    assert isinstance(scaled, Scaled)
    assert not scaled.waits
    assert chosen("lion", scaled=True).waits
