"""bitsandbytes' optimizers take the very steps that they take by themselves, and let nobody wait."""

from __future__ import annotations

import bitsandbytes.optim
import pytest
import torch
from torch import nn

from tests.simulated_device import simulated_card
from trainer.optim import optimizers
from trainer.optim.parameters import Group
from trainer.optim.unwaiting import without_waits

NAMES = ("AdamW8bit", "AdamW32bit", "AdEMAMix", "Lion", "Lion8bit", "RMSprop8bit", "LAMB8bit")


def trained(kind: type[torch.optim.Optimizer], device: str = "cpu") -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Weights and states after some steps; one weight is large enough for 8 bits, one misses its gradient once."""
    stream = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(size, generator=stream).to(device)) for size in ((64, 96), (7,), (3, 5))]
    optimizer = kind(weights, lr=1e-2)  # type: ignore[call-arg]
    for number in range(4):
        for place, weight in enumerate(weights):
            gradient = torch.randn(weight.shape, generator=stream).to(device)
            weight.grad = None if (number, place) == (1, 2) else gradient
        optimizer.step()
    states = [v for w in weights for v in optimizer.state[w].values() if isinstance(v, torch.Tensor)]
    return [w.detach() for w in weights], states


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_the_library_bit_for_bit(name: str) -> None:
    kind = getattr(bitsandbytes.optim, name)
    assert without_waits(kind) is not kind
    own, theirs = trained(without_waits(kind)), trained(kind)
    for mine, other in zip(own, theirs, strict=True):
        assert mine
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))


@pytest.mark.parametrize("name", ["AdamW8bit", "Lion"])
def test_nobody_waits_where_the_library_does(name: str) -> None:
    counts = []
    for kind in (getattr(bitsandbytes.optim, name), without_waits(getattr(bitsandbytes.optim, name))):
        with simulated_card() as card:
            trained(kind, "cuda")
            counts.append(sum(w.what == "torch.cuda.synchronize" for w in card.record.waits))
    assert counts == [11, 0]


def test_other_optimizers_and_names_stay_as_they_are() -> None:
    assert without_waits(torch.optim.AdamW) is torch.optim.AdamW
    weight = nn.Parameter(torch.zeros(3))
    for name in ("adamw8bit", "bitsandbytes.optim.AdamW8bit"):
        found = optimizers.build(name, [Group("unet", "unet", 1e-3, [weight])], {"betas": (0.9, 0.99)})
        assert isinstance(found, bitsandbytes.optim.AdamW8bit)
        assert type(found).__name__ == "AdamW8bit"
        assert type(found) is without_waits(bitsandbytes.optim.AdamW8bit)
