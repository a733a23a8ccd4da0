"""Which tensors train, at which rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.errors import UserError
from trainer.optim.parameters import Group, Rates, groups, trainable


class Adapter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lora_A = nn.ModuleDict({"default": nn.Linear(2, 1, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(1, 2, bias=False)})


def part() -> nn.Module:
    module = nn.Module()
    module.down = nn.ModuleList([Adapter(), Adapter()])
    module.mid = Adapter()
    module.frozen = nn.Linear(2, 2).requires_grad_(False)
    return module


def test_each_part_has_its_rate_and_frozen_tensors_none() -> None:
    found = groups({"unet": part(), "text": part()}, Rates({"unet": 1.0, "text": 0.5}))
    assert [(g.name, g.lr, len(g.parameters)) for g in found] == [("unet", 1.0, 6), ("text", 0.5, 6)]


def test_the_longest_block_name_wins_and_zero_freezes() -> None:
    unet = part()
    rates = Rates({"unet": 1.0}, {"unet.down": 0.5, "unet.down.1": 0.25, "unet.mid": 0.0})
    found = {g.lr: g for g in groups({"unet": unet}, rates)}
    assert {rate: len(g.parameters) for rate, g in found.items()} == {0.5: 2, 0.25: 2}
    assert {name.split(".")[1] for name, _ in trainable({"unet": unet})} == {"down"}


def test_rates_that_freeze_everything_are_an_error() -> None:
    with pytest.raises(UserError, match=r"optimizer\.rates: with these rates nothing trains"):
        groups({"unet": part()}, Rates({"unet": 1.0}, {"unet": 0.0}))


def test_lora_plus_speeds_up_the_up_matrices_only() -> None:
    unet = part()
    found = {g.lr: g.parameters for g in groups({"unet": unet}, Rates({"unet": 0.5}, lora_plus=16))}
    assert found.keys() == {0.5, 8.0}
    assert all(
        torch.equal(p, q)
        for p, q in zip(found[8.0], [a.lora_B["default"].weight for a in [*unet.down, unet.mid]], strict=True)
    )  # type: ignore[union-attr]


def test_a_block_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match=r"optimizer\.rates\.'unet\.dwon'.*unet\.down"):
        groups({"unet": part()}, Rates({"unet": 1.0}, {"unet.dwon": 0.1}))


def test_blocks_learn_in_windows_of_the_run() -> None:
    windows = {"unet.down": (0.0, 0.5), "unet.down.1": (3.0, 0.0)}
    found = groups({"unet": part()}, Rates({"unet": 1.0}, windows=windows))
    assert {g.name: (len(g.parameters), g.steps(40)) for g in found} == {
        "unet 0-0.5": (2, range(20)),
        "unet 3-end": (2, range(3, 40)),
        "unet 0-end": (2, range(40)),
    }
    assert Group("unet", "unet", 1.0, [], (0.25, 500)).steps(40) == range(10, 40)


def test_a_window_of_a_block_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match=r"optimizer\.windows\.'text'"):
        groups({"unet": part()}, Rates({"unet": 1.0}, windows={"text": (0, 5)}))
