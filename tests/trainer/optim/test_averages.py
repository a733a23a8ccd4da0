"""Averages of weights: by hand, applied and taken away without a trace, saved and restored."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.cards import AnyCard
from tests.simulated_device import simulated_card
from trainer.optim import optimizers
from trainer.optim.averages import Average, Averages
from trainer.optim.parameters import Group


def make(name: str = "sgd", **settings: object) -> tuple[nn.Parameter, torch.optim.Optimizer, Averages]:
    weight = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = optimizers.build(name, [Group("unet", "unet", 0.1, [weight])], {})
    return weight, optimizer, Averages({"w": weight}, optimizer, **settings)  # type: ignore[arg-type]


def step(weight: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    (weight**2).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_average_by_hand() -> None:
    weight, optimizer, averages = make(decay=0.9)
    expected = weight.detach().clone()
    for number in range(1, 30):
        step(weight, optimizer)
        averages.update(number)
        decay = min(0.9, number / (9 + number)) if number > 1 else 0.0
        expected = decay * expected + (1 - decay) * weight.detach()
    with averages.applied():
        torch.testing.assert_close(weight.detach(), expected)


def test_updates_only_every_so_many_steps() -> None:
    weight, optimizer, averages = make(decay=0.9, every=3)
    for number in (1, 2):
        step(weight, optimizer)
        averages.update(number)
    assert averages.state_dict()["updates"] == 0


@pytest.mark.parametrize(("name", "settings"), [("sgd", {"decay": 0.9}), ("schedulefreeadamw", {})])
def test_applying_leaves_no_trace(name: str, settings: dict[str, object]) -> None:
    def train(look: bool) -> torch.Tensor:
        weight, optimizer, averages = make(name, **settings)
        for number in range(1, 8):
            step(weight, optimizer)
            averages.update(number)
            if look:
                before = weight.detach().clone()
                with averages.applied():
                    assert not torch.equal(weight, before) or number == 1
                assert torch.equal(weight, before)
        return weight.detach()

    assert torch.equal(train(look=True), train(look=False))


def test_an_error_inside_takes_the_averages_away_too() -> None:
    weight, optimizer, averages = make(decay=0.9)
    for number in (1, 2, 3):
        step(weight, optimizer)
        averages.update(number)
    before = weight.detach().clone()
    with pytest.raises(ValueError, match="inside"), averages.applied():
        raise ValueError("inside")
    assert torch.equal(weight, before)


def test_state_continues_exactly() -> None:
    weight, optimizer, averages = make(decay=0.9)
    for number in (1, 2, 3):
        step(weight, optimizer)
        averages.update(number)
    other = Averages({"w": weight}, optimizer, decay=0.9)
    other.load_state_dict(
        {"updates": averages.state_dict()["updates"], "shadows": {"w": averages.state_dict()["shadows"]["w"].clone()}}
    )
    step(weight, optimizer)
    for one in (averages, other):
        one.update(4)
    assert torch.equal(averages.state_dict()["shadows"]["w"], other.state_dict()["shadows"]["w"])


@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_applying_takes_no_memory_of_the_device_and_leaves_every_bit(device: str, dtype: torch.dtype) -> None:
    """When samples are due the memory may be full."""
    with simulated_card() as card:
        start = torch.tensor([[1.0, -0.0, torch.nan, torch.inf], [1e-42, 3e38, 0.1, -7]]).t()  # not contiguous
        weight = nn.Parameter(start.to("cuda", dtype))
        averages = Averages({"w": weight}, torch.optim.SGD([weight]), decay=0.9, on_cpu=device == "cpu")
        averages.update(1)
        weight.data.view(torch.int32 if dtype == torch.float32 else torch.int16).add_(1)
        shadow = averages.state_dict()["shadows"]["w"]
        kept = [bits(t) for t in (weight, shadow)]
        card.fails_at = card.allocations + 1
        with averages.applied():
            inside = bits(weight)
            with averages.applied():
                assert bits(weight) == inside != kept[0]
            with pytest.raises(AssertionError):
                averages.state_dict()
        assert [bits(t) for t in (weight, shadow)] == kept
        card.fails_at = None
        assert inside == bits(shadow.to(dtype))


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def test_without_averages_nothing_is_copied() -> None:
    weight, _, averages = make()
    with averages.applied():
        weight.data.add_(1)
    assert float(weight.detach()[0]) == 0
    assert averages.state_dict() == {}


def test_the_average_of_bfloat16_weights_is_kept_in_float32() -> None:
    """Ten updates by one part in a thousand would be lost in bfloat16, whose numbers lie 0.4 to 0.8 % apart."""
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    averages = Averages({"w": weight}, optimizer, decay=0.999)
    state = {"updates": 100_000, "shadows": {"w": torch.ones(4)}}
    averages.load_state_dict(state)
    weight.data.fill_(2)
    for number in range(1, 11):
        averages.update(number)
    assert averages.state_dict()["shadows"]["w"].tolist() == pytest.approx([2 - 0.999**10] * 4, rel=1e-6)
    with averages.applied():
        assert weight.dtype == torch.bfloat16


def test_an_average_in_the_hosts_memory_equals_one_on_the_gpu(any_card: AnyCard) -> None:
    weight = nn.Parameter(torch.linspace(-1, 1, 7, device="cuda"))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    both = [Averages({"w": weight}, optimizer, decay=0.9, on_cpu=on_cpu) for on_cpu in (True, False)]
    for number in range(1, 8):
        step(weight, optimizer)
        for one in both:
            one.update(number)
    host, gpu = (one.state_dict()["shadows"]["w"].clone() for one in both)
    assert host.device.type == "cpu"
    torch.testing.assert_close(host, gpu.cpu())
    with both[0].applied():
        torch.testing.assert_close(weight.detach().cpu(), host)


class OnMetal:
    """Stands for a weight on a device that knows neither CUDA's events nor its page-locked memory."""

    device = torch.device("mps")

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def detach(self) -> OnMetal:
        return self

    def to(self, device: torch.device | str, *_: object, **__: object) -> torch.Tensor:
        assert torch.device(device).type == "cpu"
        return self.value.clone()


def test_an_average_of_metals_weights_may_lie_in_the_hosts_memory() -> None:
    weight = OnMetal(torch.zeros(3))
    average = Average([weight], 0.9, on_cpu=True)  # type: ignore[list-item]
    for value in (1.0, 4.0):
        weight.value = torch.full((3,), value)
        average.update()
    decay = 2 / 11
    torch.testing.assert_close(average.now()[0], torch.full((3,), decay * 1 + (1 - decay) * 4))
