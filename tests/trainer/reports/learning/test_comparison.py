"""Two runs are compared only where they were asked the same, and a made difference comes out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from trainer.errors import UserError
from trainer.reports.learning.comparison import compare, lines, settings
from trainer.validation.measurements import Answers, AskedImage, Measurements, Questions

HELD = 20


def measured(course: dict[int, float], own: int = 1, **changes: object) -> Measurements:
    """A run whose losses are those of all others times `course[step]`, with noise of its own."""
    pictures = tuple(AskedImage(f"p/{i}.png", (64, 64), i < HELD, "x", (100, 600)) for i in range(HELD + 5))
    asked = dataclasses.replace(Questions(0, "epsilon", 1000, pictures), **changes)
    base = np.random.default_rng(0).gamma(9, 0.02, (HELD + 5, 2))
    noise = np.random.default_rng(own)
    checkpoints = [Answers(step, base * (share + noise.normal(0, 0.005, base.shape))) for step, share in course.items()]
    return Measurements(asked, Answers(None, base), tuple(checkpoints))


def test_the_better_run_is_named_at_the_same_step_and_at_the_best() -> None:
    first, second = measured({100: 0.9, 200: 0.95, 300: 1.0}), measured({100: 0.95, 200: 0.85}, own=2)
    same, best = compare(first, second)
    assert (same.first_step, same.second_step) == (200, 200)
    assert (best.first_step, best.second_step) == (100, 200)
    assert same.difference.mean == pytest.approx(1 - 0.85 / 0.95, abs=0.005)
    assert best.difference.mean == pytest.approx(1 - 0.85 / 0.9, abs=0.005)
    told = lines([same, best], "plain", "k64")
    assert told[0].startswith("at step 200: k64 is better than plain by 10.")
    assert told[2].startswith("each at its best (step 100 and 200): k64 is better than plain by 5.")
    back = lines(compare(second, first), "k64", "plain")
    assert back[0].startswith("at step 200: plain is worse than k64 by 11.")


def test_chance_is_not_called_a_difference() -> None:
    found = compare(measured({100: 0.9}), measured({100: 0.9}, own=2))
    assert len(found) == 1
    assert lines(found, "a", "b")[0].startswith("at step 100: no measurable difference between a and b: ")


def test_a_run_against_itself_is_exactly_equal() -> None:
    run = measured({100: 0.9})
    (found,) = compare(run, run)
    assert found.difference.mean == 0


def test_the_training_images_do_not_count_and_may_differ() -> None:
    first, second = measured({100: 0.9}), measured({100: 0.9})
    second.checkpoints[0].losses[HELD:] *= 9
    other = dataclasses.replace(second.questions, pictures=second.questions.pictures[: HELD + 2])
    shorter = Measurements(other, None, (Answers(100, second.checkpoints[0].losses[: HELD + 2]),))
    (found,) = compare(first, shorter)
    assert found.difference.mean == 0
    assert found.images == HELD


PICTURES = measured({1: 1.0}).questions.pictures


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": "v_prediction"}, "the first run predicts epsilon, the second v_prediction"),
        ({"seed": 4}, r"validation\.seed"),
        ({"pictures": PICTURES[1:]}, r"1 held-out images are not the same in both runs, such as p/0\.png"),
        (
            {"pictures": (dataclasses.replace(PICTURES[0], content="y"), *PICTURES[1:])},
            r"1 held-out images are not the same",
        ),
        (
            {"pictures": (dataclasses.replace(PICTURES[0], held_out=False), *PICTURES[1:])},
            r"What one run holds out the other may have trained on",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        compare(measured({100: 0.9}), measured({100: 0.9}, **changes))


def test_nothing_measured_is_said() -> None:
    with pytest.raises(UserError, match="has not measured anything"):
        compare(measured({100: 0.9}), measured({}))


def test_the_settings_that_differ_are_listed() -> None:
    first = {"run": {"name": "a", "seed": 1}, "noise": {}, "datasets": [{"subsets": [{"image_dir": "p"}]}]}
    second = {
        "run": {"name": "b", "seed": 1},
        "noise": {"stage": {"k": 64}},
        "datasets": [{"subsets": [{"image_dir": "q"}]}],
    }
    assert settings(first, second) == [
        "datasets[0].subsets[0].image_dir: p -> q",
        "noise.stage.k: not set -> 64",
    ]
