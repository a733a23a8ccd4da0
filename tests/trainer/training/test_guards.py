"""What watches a run: skipped steps, slow steps."""

from __future__ import annotations

import pytest

from trainer.errors import RunError
from trainer.training.guards import PATIENCE, SCALER_PATIENCE, FiniteSteps, StepTimes


def lines(times: StepTimes, seconds: list[float], cells: int = 100) -> list[str]:
    return [line for step, each in enumerate(seconds, 1) if (line := times.add(step, each, cells))]


def test_a_threefold_step_time_is_told_once() -> None:
    slow = lines(StepTimes("Buy a fan."), [9.0] * 3 + [1.0] * 30 + [3.5] * 20)
    assert len(slow) == 1
    assert "3.5 times as long" in slow[0]
    assert slow[0].endswith("Buy a fan.")


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param([30.0, 20.0, 10.0, *[1.0] * 60], id="compilation at the start"),
        pytest.param(([1.0] * 9 + [20.0]) * 20, id="single slow steps"),
        pytest.param([1.0] * 40 + [2.5] * 40, id="not that slow"),
        pytest.param([1.0] * 5, id="a short run"),
    ],
)
def test_what_is_no_reason_to_warn(seconds: list[float]) -> None:
    assert lines(StepTimes(), seconds) == []


def test_buckets_of_other_sizes_are_compared_by_their_size() -> None:
    times = StepTimes()
    assert lines(times, [1.0] * 40, cells=100) == []
    assert lines(times, [9.0] * 40, cells=900) == []
    assert len(lines(times, [9.0] * 40, cells=100)) == 1


def test_skips_in_a_row_end_a_run_and_a_good_step_forgives() -> None:
    finite = FiniteSteps()
    for _ in range(PATIENCE - 1):
        finite.failed(1, ["a.png"])
    finite.passed()
    for _ in range(PATIENCE - 1):
        assert "a.png" in finite.failed(2, ["a.png", "a.png"])
    with pytest.raises(RunError, match=f"{PATIENCE} steps in a row"):
        finite.failed(3, ["b.png"])
    assert finite.skipped == 2 * PATIENCE - 1


def test_the_count_goes_on_after_a_resume() -> None:
    finite, resumed = FiniteSteps(), FiniteSteps()
    for _ in range(PATIENCE - 1):
        finite.failed(1, [])
    resumed.load_state_dict(finite.state_dict())
    with pytest.raises(RunError):
        resumed.failed(2, [])


def test_float16_may_overflow_until_its_scale_has_found_its_size() -> None:
    finite = FiniteSteps()
    for step in range(SCALER_PATIENCE - 1):
        finite.overflowed(step, [])
    with pytest.raises(RunError):
        finite.overflowed(99, ["a.png"])
