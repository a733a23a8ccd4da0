"""How often each optimizer waits for the card in a step, counted on the simulated one: the table of docs/options.md."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.simulated_device import simulated_card
from tests.simulated_device.card import Card
from tests.trainer.optim.test_optimizers import OFFERED
from trainer.errors import UserError
from trainer.optim import optimizers
from trainer.optim.parameters import Group

PAGE = Path(__file__).parents[3] / "docs/options.md"
CHANGING = {"racs", "spectralsphere", "stablespam"}  # they ask as their weights happen to be
HEAD = "| waits in a step | optimizers |\n|---|---|\n"


def waits(card: Card, name: str, pairs: int) -> int:
    """The most of a step of a LoRA with so many layers, from the third on; a first step may prepare."""
    given = [nn.Parameter(torch.randn(shape).to("cuda")) for shape in [(4, 8), (8, 4)] * pairs]
    groups = optimizers.split(name, [Group("unet", "unet", 1e-3, given)])
    optimizer = optimizers.build(name, groups, {})
    getattr(optimizer, "train", lambda: None)()
    counts = []
    for _ in range(4):
        for weight in given:
            weight.grad = torch.randn(weight.shape).to("cuda")
        before = len(card.record.waits)
        optimizer.step()
        counts.append(len(card.record.waits) - before)
    return max(counts[2:])


def told(card: Card, name: str) -> str:
    one = waits(card, name, 1)
    if one == 0:
        return "none"
    two = waits(card, name, 2)
    each, odd = divmod(two - one, 2)
    if odd or one < 2 * each:
        return "changing"
    beside = one - 2 * each
    return " + ".join(filter(None, [f"{each} for each weight" if each else "", str(beside) if beside else ""]))


def table() -> str:
    rows = defaultdict(list)
    with simulated_card() as card:
        for name in sorted({*OFFERED} - CHANGING):
            with suppress(UserError):  # not offered after all
                rows[told(card, name)].append(f"`{name}`")
    order = sorted(rows, key=lambda row: (row != "none", "each" in row, row))
    return HEAD + "".join(f"| {row} | {', '.join(rows[row])} |\n" for row in order)


def test_the_page_tells_how_often_each_optimizer_waits() -> None:
    found = table()
    assert found in PAGE.read_text(encoding="utf-8"), found


@pytest.mark.parametrize("name", ["alig", "demo", "pytorchlars"])
def test_what_takes_no_step_is_refused_before_a_run(name: str) -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(UserError, match="takes no step"):
        optimizers.build(name, [Group("unet", "unet", 1e-3, [nn.Parameter(torch.ones(4, 8))])], {})
    assert torch.equal(torch.random.get_rng_state(), before)
