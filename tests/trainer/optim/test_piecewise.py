"""Optimizers in pieces: equal to the whole, in bfloat16 too, in the backward pass too, with less in memory at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.cards import AnyCard
from trainer.errors import UserError
from trainer.optim import optimizers
from trainer.optim.finite_update import Waiting
from trainer.optim.fused_backward import FusedBackward
from trainer.optim.parameters import Group
from trainer.optim.piecewise import Piecewise, PiecewiseUpdate

NAMES: dict[str, tuple[float, dict[str, Any]]] = {
    "sgd": (1e-2, {"momentum": 0.9}), "adamw": (1e-2, {}), "rmsprop": (1e-2, {}), "lion": (1e-3, {}),
    "adafactor": (1e-2, {}), "adamw8bit": (1e-2, {}), "came": (1e-3, {}), "adopt": (1e-2, {}),
}  # fmt: skip


class Wrapper:
    """As accelerate's."""

    def __init__(self, optimizer: Piecewise) -> None:
        self.optimizer, self.step = optimizer, optimizer.step


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(16, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 16)]
    return nn.Sequential(*layers).to(dtype)


def groups(network: nn.Module, lr: float) -> list[Group]:
    weights = list(network.parameters())
    return [Group("a", "unet", lr, weights[:3]), Group("b", "unet", lr / 2, weights[3:])]


def real(name: str) -> Callable[[Sequence[Group]], torch.optim.Optimizer]:
    return lambda given: optimizers.build(name, given, NAMES[name][1])


def pieces(name: str, network: nn.Module, largest: int) -> Piecewise:
    return Piecewise(groups(network, NAMES[name][0]), real(name), seed=7, largest=largest)


def backward(network: nn.Module, step: int) -> float:
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(step))
    dtype = next(network.parameters()).dtype
    loss = nn.functional.mse_loss(network(x.to(dtype)).float(), x.roll(1, 1))
    loss.backward()
    return float(loss.detach())


def plain(name: str, steps: int) -> nn.Module:
    network = model()
    optimizer = optimizers.build(name, groups(network, NAMES[name][0]), NAMES[name][1])
    for step in range(steps):
        backward(network, step)
        optimizer.step()
        optimizer.zero_grad()
    return network


def fused(update: FusedBackward, network: nn.Module, steps: int, start: int = 0) -> list[float]:
    losses = []
    for step in range(start, start + steps):
        losses.append(backward(network, step))
        norm = update.take()
        update.settle(bool(norm.isfinite()))
    return losses


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_backward_pass_updates_bit_for_bit_as_a_step_after_it(name: str) -> None:
    network = model()
    fused(FusedBackward(pieces(name, network, 1)), network, 5)
    assert equal(network, plain(name, 5))


@pytest.mark.parametrize("largest", [1, 5000, 2**25])
def test_the_size_of_the_pieces_changes_nothing(largest: int) -> None:
    network = model()
    optimizer = pieces("adamw", network, largest)
    assert len(optimizer.pieces) == {1: 6, 5000: 3, 2**25: 2}[largest]
    for step in range(4):
        backward(network, step)
        optimizer.step()
        optimizer.zero_grad()
    assert equal(network, plain("adamw", 4))


def test_gradients_are_freed_as_the_backward_pass_goes_on() -> None:
    """At most two at once: the one that is used and the one that is being made."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = {}
    for way in ("plain", "fused"):
        network = model()
        counts = []

        def seen(gradient: Tensor, counts: list[int] = counts, network: nn.Module = network) -> None:
            alive.add(gradient)
            counts.append(sum(p.grad is not None for p in network.parameters()) + 1)

        for weight in network.parameters():
            weight.register_hook(seen)
        if way == "fused":
            fused(FusedBackward(pieces("adamw", network, 1)), network, 1)
            assert all(weight.grad is None for weight in network.parameters())
        else:
            backward(network, 0)
        most[way] = max(counts)
    assert most == {"plain": 6, "fused": 1}


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor", "lion"])
def test_a_gradient_that_is_not_finite_touches_no_weight_and_is_told(name: str) -> None:
    """The weight concerned and its optimizer stay as they are; all others learn."""
    ends = []
    for bad in (None, float("nan"), float("inf")):
        network = model()
        target = list(network.parameters())[2]
        optimizer = pieces(name, network, 1)
        spoil = {"on": False}
        target.register_hook(lambda g, spoil=spoil, bad=bad: g * bad if spoil["on"] and bad is not None else g)
        update = FusedBackward(optimizer)
        for step in range(3):
            spoil["on"] = step == 1
            before = [p.detach().clone() for p in network.parameters()]
            backward(network, step)
            finite = bool(update.take().isfinite())
            assert finite == (bad is None or step != 1)
            update.settle(finite)
            changed = [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
            assert changed == [True, True, finite, True, True, True]
        assert all(bool(p.isfinite().all()) for p in network.parameters())
        ends.append(optimizer.state_dict())
    assert _counts(ends[1]) == _counts(ends[2])


def _counts(state: dict[str, Any]) -> list[Any]:
    return [
        float(v) if isinstance(v, Tensor) and v.ndim == 0 else v
        for piece in state["pieces"]
        for entry in piece["state"].values()
        for v in entry.values()
        if not isinstance(v, (Tensor, dict)) or (isinstance(v, Tensor) and v.ndim == 0)
    ]


def test_clipping_by_value_in_the_backward_pass() -> None:
    network = model()
    update = FusedBackward(Piecewise([Group("a", "unet", 1.0, list(network.parameters()))], real("sgd"), seed=0,
                                     largest=1), max_value=1e-3)  # fmt: skip
    before = [p.detach().clone() for p in network.parameters()]
    backward(network, 0)
    assert float(update.take()) > 1e-2
    moved = max(float((p - q).detach().abs().max()) for p, q in zip(before, network.parameters(), strict=True))
    assert moved == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["after", "within"])
def test_bfloat16_weights_learn_and_continue_bit_for_bit(name: str, way: str) -> None:
    def start(network: nn.Module, optimizer: Piecewise) -> Callable[[int, int], list[float]]:
        if way == "within":
            early = FusedBackward(optimizer)
            return lambda first, steps: fused(early, network, steps, first)
        update = PiecewiseUpdate(Wrapper(optimizer))

        def run(first: int, steps: int) -> list[float]:
            losses = []
            for step in range(first, first + steps):
                losses.append(backward(network, step))
                update.apply(torch.tensor(True))
                optimizer.zero_grad()
                update.settle(True)
            return losses

        return run

    largest = 1 if way == "within" else 5000
    network = model(torch.bfloat16)
    optimizer = pieces(name, network, largest)
    run = start(network, optimizer)
    losses = run(0, 25)
    assert losses[-1] < losses[0] * 0.98
    again = model(torch.bfloat16)
    again.load_state_dict(network.state_dict())
    other = pieces(name, again, largest)
    other.load_state_dict(_copy(optimizer.state_dict()))
    run(25, 3)
    start(again, other)(25, 3)
    assert equal(network, again)
    assert all(p.dtype == torch.bfloat16 for p in network.parameters())
    assert all(a.numel() == 0 for piece in optimizer.pieces for a in piece.acting)  # nothing widened is kept


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_copy(v) for v in value]
    return value.clone() if isinstance(value, Tensor) else value


def test_small_steps_reach_bfloat16_weights_on_the_average() -> None:
    """SGD with a constant gradient of 1: after 100 steps of 1e-4 the mean has moved by 1e-2."""
    weight = nn.Parameter(torch.ones(20_000, dtype=torch.bfloat16))
    optimizer = Piecewise([Group("a", "unet", 1e-4, [weight])], lambda g: optimizers.build("sgd", g, {}), seed=0)
    for _ in range(100):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert float(weight.detach().float().mean()) == pytest.approx(0.99, abs=2e-4)


@pytest.mark.parametrize("name", ["prodigy", "adamwschedulefree"])
def test_what_needs_all_weights_at_once_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"optimizer\.name: .* works\s*neither with training\.weight_dtype"):
        Piecewise(groups(model(), 1e-3), lambda g: optimizers.build(name, g, {}), seed=0)


def test_a_state_of_other_pieces_is_refused() -> None:
    network = model()
    with pytest.raises(ValueError, match="pieces"):
        pieces("adamw", network, 1).load_state_dict(pieces("adamw", network, 2**25).state_dict())


@pytest.mark.parametrize("name", ["adamw", "adafactor", "adamw8bit"])
def test_on_a_gpu_a_state_goes_where_its_weights_are(any_card: AnyCard, name: str) -> None:
    """Optimizers are made before the weights move."""
    networks = [model(torch.bfloat16) for _ in range(2)]
    made = [pieces(name, network, 1) for network in networks]
    x = torch.randn(8, 16, device="cuda", dtype=torch.bfloat16)
    for network, optimizer in zip(networks, made, strict=True):
        network.cuda()
        if network is networks[1]:
            optimizer.load_state_dict(_copy(made[0].state_dict()))
        for _ in range(3):
            network(x).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(p.dtype == torch.bfloat16 and p.is_cuda for network in networks for p in network.parameters())
    assert {t.device.type for o in made for t in _large(o.state_dict())} == {"cuda"}


def _large(value: Any) -> list[Tensor]:
    """Tensors of a state, but for single numbers, which optimizers keep where they like."""
    if isinstance(value, Tensor):
        return [value] if value.ndim else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [t for one in inner for t in _large(one)]


@pytest.mark.filterwarnings("ignore:Paged optimizers")
def test_paged_states_are_not_copied_to_undo_a_step() -> None:
    network = model(torch.bfloat16)
    made = Piecewise(groups(network, 1e-2), lambda given: optimizers.build("pagedadamw8bit", given, {}), seed=7)
    assert all(isinstance(piece.update, Waiting) for piece in made.pieces)
