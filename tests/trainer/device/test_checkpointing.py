"""Recomputed activations: the same gradients from fewer kept numbers, and the level that a GPU's memory asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cards import AnyCard
from tests.reliability import small
from tests.simulated_device import simulated_card
from tests.tiny import tiny_sd, tiny_sdxl
from tests.trainer.config.test_reading import GOOD, parse
from trainer import registry
from trainer.batch import Geometry
from trainer.device.checkpointing import LEVELS, Level, set_level
from trainer.run.preflight import ROOM, Trial, quickest

GEOMETRY = Geometry(*(torch.full((2, 2), 16, dtype=torch.long) for _ in range(3)))


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    make = tiny_sd if request.param == "sd" else tiny_sdxl
    found = registry.find("models", request.param).load(str(make(tmp_path_factory.mktemp("base"))))
    for part in found.parts.values():
        part.requires_grad_(True)
        part.train()
    return found


def measured(family: Any, level: Level) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of everything, text encoders too, and how many numbers were kept for the backward pass."""
    set_level(family.parts.values(), level)
    kept: dict[int, torch.UntypedStorage] = {}  # alive, so that no address is given away twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        prediction = family.predict(noisy, torch.tensor([3, 700]), family.encode_text(["a cat", "a dog"]), GEOMETRY)
        loss = prediction.square().mean()
    for part in family.parts.values():
        part.zero_grad()
    loss.backward()
    found = {
        n: p.grad.clone() for part in family.parts.values() for n, p in part.named_parameters() if p.grad is not None
    }
    weights = {p.untyped_storage().data_ptr() for part in family.parts.values() for p in part.parameters()}
    return found, sum(storage.nbytes() for at, storage in kept.items() if at not in weights)


def test_every_level_gives_the_same_gradients_and_keeps_less_than_the_one_before(family: Any) -> None:
    gradients, sizes = {}, []
    for level in LEVELS:
        gradients[level], size = measured(family, level)
        sizes.append(size)
    assert sizes[0] > sizes[1] > sizes[2]
    for level in LEVELS[1:]:
        assert gradients[level].keys() == gradients["off"].keys()
        assert all(torch.equal(gradients[level][n], gradients["off"][n]) for n in gradients["off"])


def test_off_again_is_off(family: Any) -> None:
    _, before = measured(family, "off")
    measured(family, "full")
    _, after = measured(family, "off")
    assert after == before


@pytest.mark.parametrize("level", ["selective", "full"])
def test_a_run_with_dropout_is_the_same_at_every_level(tmp_path: Path, level: str) -> None:
    project = small.make(tmp_path / "a project")
    for name, each in (("kept", "off"), ("recomputed", level)):
        settings = (f"training.gradient_checkpointing='{each}'", "lora.dropout=0.3", "training.steps=3")
        small.training(project, *settings, f"run.name='{name}'").run()
    states = {small.state_hash(small.run_dir(project, n).checkpoint(3)) for n in ("kept", "recomputed")}
    assert len(states) == 1


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ({"off": 0.5, "selective": 0.4, "full": 0.3}, "off"),
        ({"off": ROOM + 0.01, "selective": 0.6, "full": 0.3}, "selective"),
        ({"off": 2.0, "selective": 1.5, "full": ROOM + 0.05}, "full"),
    ],
)
def test_the_quickest_level_that_fits_is_taken(needs: dict[Level, float], expected: Level) -> None:
    used: list[Level] = []

    def attempt() -> Trial:
        share = needs[used[-1]]
        if share > 1:
            raise torch.OutOfMemoryError("full")
        return Trial("1 x 8x8", 1.0, int(share * 1000), 1000, "cuda:0")

    level, trial = quickest(LEVELS, used.append, attempt)
    assert level == expected == used[-1]
    assert trial.memory == int(needs[expected] * 1000)


def test_a_memory_too_small_for_all_levels_is_told() -> None:
    def attempt() -> Trial:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        quickest(LEVELS, lambda level: None, attempt)


def test_on_a_cpu_auto_is_off_and_says_so(tmp_path: Path) -> None:
    found = small.training(small.make(tmp_path / "a project"), "training.gradient_checkpointing='auto'")
    assert "'auto' is for a GPU; here it is 'off'" in found.notices[0]


@pytest.mark.parametrize(("written", "level"), [("true", "full"), ("false", "off"), ("'selective'", "selective")])
def test_switches_of_older_files_still_work(written: str, level: str) -> None:
    assert parse(GOOD, f"training.gradient_checkpointing={written}").training.gradient_checkpointing == level


def test_on_a_gpu_auto_measures_and_says_what_it_took(any_card: AnyCard, tmp_path: Path) -> None:
    found = small.training(
        small.make(tmp_path / "a project"), "training.gradient_checkpointing='auto'", "run.device='cuda'"
    )
    assert found.notices[0] == "training.gradient_checkpointing = 'auto' took 'off'"
    assert found.run() == "done"


def test_what_other_programs_hold_counts(tmp_path: Path) -> None:
    """On a card of which they leave a little more than the run needs, "auto" does not take the level that fills it."""
    project = small.make(tmp_path / "a project")
    settings = ("training.gradient_checkpointing='auto'", "run.device='cuda'")
    with simulated_card() as card:
        found = small.training(project, *settings)
        assert found.notices[0].endswith("took 'off'")
        needed = card.peak
    with simulated_card() as card:
        card.others = card.memory - int(1.04 * needed)  # 0.92 of it is less than what is needed
        assert not small.training(project, *settings).notices[0].endswith("took 'off'")
