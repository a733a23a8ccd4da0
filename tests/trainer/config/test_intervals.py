"""How often something happens: what may be written, and when it is due."""

from __future__ import annotations

import pytest

from trainer.config.intervals import Interval


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (400, Interval(steps=400)),
        (0, Interval()),
        ("90s", Interval(seconds=90)),
        ("15m", Interval(seconds=900)),
        ("15 min", Interval(seconds=900)),
        ("1.5h", Interval(seconds=5400)),
        ("1 epoch", Interval(epochs=1)),
        ("2 Epochs", Interval(epochs=2)),
        ("0.5e", Interval(epochs=0.5)),
    ],
)
def test_what_can_be_written(written: int | str, expected: Interval) -> None:
    assert Interval.parse(written) == expected


@pytest.mark.parametrize("written", ["", "15", "m", "0m", "-3m", "1 week", "1e3 epochs", "1m2s"])
def test_what_cannot(written: str) -> None:
    with pytest.raises(ValueError, match="15m"):
        Interval.parse(written)


def test_steps() -> None:
    assert [s for s in range(1, 13) if Interval(steps=4).after_step(s, 10)] == [4, 8, 12]


def test_never() -> None:
    assert not any(Interval().after_step(s, 10) for s in range(1, 50))


def test_an_epoch_that_does_not_end_with_a_step_counts_at_the_first_step_after_it() -> None:
    assert [s for s in range(1, 12) if Interval(epochs=1).after_step(s, 2.5)] == [3, 5, 8, 10]


def test_parts_of_an_epoch_add_up() -> None:
    assert [s for s in range(1, 31) if Interval(epochs=0.1).after_step(s, 30)] == list(range(3, 31, 3))
