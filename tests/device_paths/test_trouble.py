"""Memory that runs out at a chosen allocation, a stop in the middle, a run that goes on elsewhere: nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.device_paths.card_runs import ON_CARD, PICTURES, QUESTIONS, end_state, project, train_on_card, train_on_cpu
from tests.reliability import small
from tests.simulated_device import Card, simulated_card
from trainer.assembly.run import PreparedRun
from trainer.errors import RunError

STEPS = ("training.steps=4", "save.every=1")


def fail_in_step(found: PreparedRun, card: Card, step: int) -> None:
    """The memory runs out in the forward pass of that step."""
    real = found.loop.gradients.step

    def failing(batch, streams):  # type: ignore[no-untyped-def]
        if streams.step == step:
            card.fails_at = card.allocations + 20
        return real(batch, streams)

    failing.held = real.held  # type: ignore[attr-defined]
    found.loop.gradients.step = failing  # type: ignore[assignment]


def events(file: Path, name: str) -> list[str]:
    return [e.get("message", "") for e in small.run_dir(file, name).events()]


def test_memory_that_runs_out_in_a_step_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    file = project(tmp_path / "a project")
    train_on_cpu(file, *STEPS)
    with simulated_card() as card:
        found = small.training(file, ON_CARD, "run.name='card'", *STEPS)
        fail_in_step(found, card, 2)
        with pytest.raises(RunError, match=r"the memory of cuda ran out in training\. What saves most: training\."):
            found.run()
    told = [e for e in small.run_dir(file, "card").events() if e["event"] == "error"]
    assert [e["step"] for e in told] == [2]
    train_on_card(file, *STEPS, resume=True)
    assert end_state(file, "card") == end_state(file, "cpu")


@pytest.mark.parametrize(
    ("allocation", "expected"),
    [
        (0.02, "while images were encoded|while captions were encoded|while the model was brought there"),
        (0.5, "while images were encoded|while captions were encoded|while the model was brought there"),
        (0.999, r"in a first step with the largest batch \(2 x \d+x\d+\)"),
    ],
)
def test_memory_that_runs_out_before_the_first_step_is_told_and_writes_nothing(
    tmp_path: Path, allocation: float, expected: str
) -> None:
    file = project(tmp_path / "a project")
    with simulated_card() as card:
        small.training(file, ON_CARD, "training.preflight=true")
    # Pictures are encoded one by one where two are too much, so a single shortage is not enough there.
    with simulated_card() as short:
        short.fails_from = max(1, int(allocation * card.allocations))
        with pytest.raises(RunError, match=f"the memory of .* ran out ({expected}).* What saves most: "):
            small.training(file, ON_CARD, "training.preflight=true")
    assert not (file.parent / "output").exists()


def test_pictures_are_encoded_one_by_one_where_the_memory_is_small(tmp_path: Path) -> None:
    file = project(tmp_path / "a project")
    with simulated_card(fails_at=60) as card:
        found = small.training(file, ON_CARD)
        assert card.allocations > 60
        assert found.loop.gradients.batch(0).latents is not None


@pytest.mark.parametrize("late", [0.1, 0.5, 0.9])
def test_memory_that_runs_out_in_samples_or_measurements_does_not_end_a_run(tmp_path: Path, late: float) -> None:
    file = project(tmp_path / "a project")
    overrides = ("training.steps=2", "samples.at_start=false", PICTURES, QUESTIONS, "ema.decay=0.9")
    whole, looks = _allocations_of_looks(file, *overrides)
    with simulated_card(fails_at=whole + int(late * looks)):
        assert small.training(file, ON_CARD, "run.name='short'", *overrides).run() == "done"
    train_on_cpu(file, *overrides)
    assert end_state(file, "short") == end_state(file, "cpu")


def _allocations_of_looks(file: Path, *overrides: str) -> tuple[int, int]:
    """How many allocations there were before the first sample or measurement, and how many they took."""
    with simulated_card() as card:
        found = small.training(file, ON_CARD, "run.name='counted'", *overrides)
        before = card.allocations
        for one in found.loop.periodic:
            if one.at_start:
                with found.folder.opened():
                    one.act(0)
        return before, card.allocations - before


@pytest.mark.parametrize("overrides", [(), ("ema={decay=0.9,device='cpu'}", "optimizer.name='adamw8bit'")])
@pytest.mark.parametrize("elsewhere", ["from the card to the cpu", "from the cpu to the card"])
def test_a_run_that_was_stopped_goes_on_elsewhere_with_the_same_bits(
    tmp_path: Path, overrides: tuple[str, ...], elsewhere: str
) -> None:
    file = project(tmp_path / "a project")
    steps = ("training.steps=4", *overrides)
    train_on_cpu(file, *steps)
    if elsewhere == "from the card to the cpu":
        with simulated_card():
            _stopped(file, ON_CARD, *steps)
        train_on_cpu(file, *steps, name="moved", resume=True)
    else:
        _stopped(file, *steps)
        train_on_card(file, *steps, name="moved", resume=True)
    assert end_state(file, "moved") == end_state(file, "cpu")


def _stopped(file: Path, *overrides: str) -> None:
    found = small.training(file, "run.name='moved'", *overrides)
    small.stop_after(found, 2)
    assert found.run() == "stopped"
