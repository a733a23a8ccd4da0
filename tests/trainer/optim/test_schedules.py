"""Learning-rate schedules by hand and against diffusers' own."""

from __future__ import annotations

import pytest
import torch
from diffusers.optimization import SchedulerType, get_scheduler

from trainer.optim import schedules
from trainer.optim.schedules import SCHEDULES, Shape

TOTAL = 40
PIECES = ((0.5, 1.0), (0.75, 0.1), (1.0, 0.5))


def optimizer(groups: int = 1) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0} for _ in range(groups)])


@pytest.mark.parametrize(
    ("name", "cycles", "reference"),
    [
        ("constant", 1, {}),
        ("linear", 1, {}),
        ("cosine", 1, {}),
        ("cosine_with_restarts", 3, {"num_cycles": 3}),
        ("polynomial", 1, {"power": 2.0}),
        ("piecewise_constant", 1, {"step_rules": "1:20,0.1:30,0.5"}),
    ],
)
def test_equal_to_diffusers_without_warm_up(name: str, cycles: int, reference: dict[str, float]) -> None:
    theirs = optimizer()
    found = get_scheduler(name, theirs, num_warmup_steps=0, num_training_steps=TOTAL, **reference)  # type: ignore[arg-type]
    shape = Shape(name, cycles=cycles, power=2.0, pieces=PIECES)
    for step in range(TOTAL):
        # diffusers ends its polynomial at a rate of 1e-4 instead of 0
        assert shape.factor(step, TOTAL) == pytest.approx(theirs.param_groups[0]["lr"], abs=1.1e-4), step
        theirs.step()
        found.step()


def test_warm_up_rises_from_the_first_step_and_never_wastes_one() -> None:
    shape = Shape("linear", warmup=3)
    assert [shape.factor(s, 10) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert Shape(warmup=0.1).warmup_steps(200) == 20
    assert Shape(warmup=15).warmup_steps(200) == 15


def test_rex_and_stable_decay_by_hand() -> None:
    assert Shape("rex").factor(20, 40) == pytest.approx(0.5 / 0.75)
    stable = Shape("warmup_stable_decay", decay=0.25)
    assert [stable.factor(s, 40) for s in (0, 29, 30, 35)] == [1, 1, 1, 0.5]


def test_inverse_sqrt_by_hand() -> None:
    assert Shape("inverse_sqrt", warmup=4).factor(16, 40) == pytest.approx(0.5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_minimum_is_never_undercut(name: str) -> None:
    factors = [Shape(name, minimum=0.1, pieces=PIECES).factor(s, TOTAL) for s in range(TOTAL + 5)]
    assert min(factors) >= 0.1
    assert max(factors) <= 1


def test_a_group_stops_alone() -> None:
    both = optimizer(2)
    found = schedules.build(both, Shape(), total=10, during=[range(10), range(3)])
    seen = []
    for _ in range(5):
        seen.append([g["lr"] for g in both.param_groups])
        both.step()
        found.step()
    assert seen == [[1, 1]] * 3 + [[1, 0]] * 2


def test_diffusers_has_no_schedule_that_is_missing_here() -> None:
    """constant_with_warmup is constant with a warm-up."""
    theirs = {kind.value for kind in SchedulerType} - {"constant_with_warmup"}
    assert theirs <= SCHEDULES.keys() | {"inverse_sqrt"}
