"""Time and memory are measured as they are."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from trainer.reports.noise.cost import milliseconds, peak_bytes

CPU = torch.device("cpu")
KIB = 1024


def test_memory_counts_what_lives_at_once() -> None:
    """4 KiB tensors: a and b live together, then a goes, so the sum of all would be 5 and the peak is 3."""

    def call() -> Tensor:
        a = torch.ones(KIB)
        b = a + 1
        c = a + b  # a, b, c
        del a
        b.add_(c)
        del c
        return torch.cat([b])  # b and its copy

    assert peak_bytes(call, CPU) == 3 * 4 * KIB


def test_views_and_what_was_there_before_cost_nothing() -> None:
    older = torch.ones(KIB)
    assert peak_bytes(lambda: older.reshape(2, -1).mul_(2)[0], CPU) == 0

    def call() -> Tensor:
        view = torch.ones(KIB)[: KIB // 2]  # keeps all of it alive
        return view + torch.ones(KIB // 2)

    assert peak_bytes(call, CPU) == 2 * 4 * KIB


def test_time_is_the_time_of_one_call() -> None:
    def call() -> Tensor:
        time.sleep(0.01)
        return torch.ones(1)

    assert 10 <= milliseconds(call, CPU, least=0.05) < 200
