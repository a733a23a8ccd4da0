"""The learning report says in words what the numbers were made to show."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from trainer.reports.learning.findings import Learning, learning, percent
from trainer.reports.learning.interval import LossReduction
from trainer.validation.measurements import Answers, AskedImage, Measurements, Questions

HELD, TRAINED, DRAWS = 30, 12, 4


def questions(held: int = HELD, trained: int = TRAINED) -> Questions:
    times = tuple(125 + 250 * draw for draw in range(DRAWS))
    return Questions(
        seed=0,
        objective="epsilon",
        schedule=1000,
        pictures=tuple(AskedImage(f"photos/{i}.png", (64, 64), i < held, "", times) for i in range(held + trained)),
    )


def run(course: Sequence[tuple[float, float]], *, spread: float = 0.01, base: bool = True) -> Learning:
    """Measurements every 100 steps; `course`: the share of the base's loss on held-out and on training images."""
    asked, random = questions(), np.random.default_rng(0)
    before = random.gamma(9, 0.02, (HELD + TRAINED, DRAWS))
    checkpoints = []
    for number, shares in enumerate(course, start=1):
        share = np.where(asked.held_out, shares[0], shares[1])[:, None]
        after = before * (share + random.normal(0, spread, (len(before), 1)))
        checkpoints.append(Answers(100 * number, after))
    found = learning(Measurements(asked, Answers(None, before) if base else None, tuple(checkpoints)))
    assert found is not None
    return found


def test_nothing_measured_is_no_report() -> None:
    assert learning(Measurements(questions(), None, ())) is None


def test_learning_to_the_end() -> None:
    found = run([(0.99, 0.98), (0.97, 0.95), (0.95, 0.92)], spread=0.002)
    assert found.best == 300
    assert found.verdict.startswith("better than the base by 4.9")
    assert "on 30 held-out images; best at the end (step 300): more steps may help" in found.verdict
    assert found.memorising_since is None
    assert found.worsening_since is None


def test_a_plateau_begins_where_the_best_is_not_measurably_better() -> None:
    found = run([(0.99, 0.98), (0.95, 0.95), (0.9499, 0.9), (0.951, 0.85), (0.9497, 0.8)])
    assert found.plateau_since == 200
    assert found.training_gained
    assert found.memorising_since is None
    assert found.verdict.endswith("no measurable gain since step 200, only the training images got better")
    both = run([(0.99, 0.98), (0.95, 0.95), (0.9499, 0.95), (0.951, 0.95), (0.9497, 0.95)])
    assert both.verdict.endswith("no measurable gain since step 200")


def test_a_run_that_learns_to_the_end_has_no_plateau() -> None:
    assert run([(1 - 0.01 * i, 1 - 0.01 * i) for i in range(1, 8)]).plateau_since is None


def test_a_standstill_is_no_reason_to_go_on() -> None:
    found = run([(0.97, 0.96), (0.95, 0.93), (0.9499, 0.93)])
    assert not found.still_improving
    assert "more steps" not in found.verdict


def test_memorising_is_named_with_the_step_where_it_began() -> None:
    found = run([(0.97, 0.96), (0.92, 0.9), (0.95, 0.8), (1.0, 0.6), (1.05, 0.4)])
    assert found.best == 200
    assert found.memorising_since == 300
    assert found.worsening_since is None
    assert found.verdict.startswith("best at step 200: better than the base by 8.")
    assert "; at the end: worse than the base by 5." in found.verdict
    assert found.verdict.endswith("; memorising since step 300")


def test_a_run_that_breaks_is_not_called_memorising() -> None:
    found = run([(0.95, 0.95), (1.1, 1.1), (1.3, 1.3)])
    assert found.memorising_since is None
    assert found.worsening_since == 200
    assert found.verdict.endswith("getting worse since step 200, on the training images too")


def test_one_bad_measurement_is_not_enough() -> None:
    found = run([(0.97, 0.9), (0.92, 0.8), (0.96, 0.7)])
    assert found.memorising_since is None


def test_a_recovery_takes_the_word_back() -> None:
    found = run([(0.92, 0.9), (0.96, 0.8), (0.97, 0.7), (0.92, 0.6)])
    assert found.memorising_since is None


def test_no_difference_is_said_to_be_none() -> None:
    found = run([(1.0, 1.0)], spread=0.05)
    assert found.verdict.startswith("no measurable difference from the base: ")


def test_few_images_give_no_interval_but_a_direction() -> None:
    for share, words in ((0.9, "better"), (1.1, "worse")):
        asked = questions(held=3, trained=0)
        before = np.ones((3, DRAWS))
        found = learning(Measurements(asked, Answers(None, before), (Answers(1, before * share),)))
        assert found is not None
        expected = f"{words} than the base by 10.0 % (too few images for an interval) on 3 held-out images"
        assert found.verdict.startswith(expected)


def test_without_the_base_only_the_loss_is_told() -> None:
    found = run([(0.97, 0.9), (0.92, 0.8)], base=False)
    assert found.last.improvement is None
    assert (
        found.verdict
        == f"loss {found.last.loss:.4f} on 30 held-out images; best at the end (step 200): more steps may help"
    )
    assert found.best == 200


def test_bins_cover_the_schedule_and_average_to_the_whole() -> None:
    found = run([(0.9, 0.8)])
    bins = found.last.bins
    assert [(b.low, b.high) for b in bins] == [(0, 250), (250, 500), (500, 750), (750, 1000)]
    assert np.mean([b.loss for b in bins]) == pytest.approx(found.last.loss)
    assert all(b.improvement is not None and b.improvement.better for b in bins)


def test_held_out_images_are_told_apart_from_training_images() -> None:
    found = run([(0.9, 0.5)], spread=0)
    assert found.images == HELD
    assert found.training_images == TRAINED
    assert found.last.improvement is not None
    assert found.last.improvement.mean == pytest.approx(0.1)
    assert found.last.training_improvement is not None
    assert found.last.training_improvement.mean == pytest.approx(0.5)
    assert len(found.changes) == HELD
    assert all(change.improvement == pytest.approx(0.1) for change in found.changes)


def test_the_report_is_plain_json() -> None:
    assert json.loads(json.dumps(run([(0.9, 0.5)]).as_dict(), allow_nan=False))["best"] == 100


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (LossReduction(0.031, 0.026, 0.036), "3.1 % (95 %: 2.6 to 3.6)"),
        (LossReduction(0.00128, 0.00126, 0.00132), "0.128 % (95 %: 0.126 to 0.132)"),
        (LossReduction(-0.0001, -0.002, 0.0019), "0.0 % (95 %: -0.2 to 0.2)"),
        (LossReduction(0.03), "3.0 % (too few images for an interval)"),
    ],
)
def test_percentages_have_the_digits_that_mean_something(estimate: LossReduction, words: str) -> None:
    assert percent(estimate) == words
