"""Noise stages on the simulated card: each, all together, pools that look ahead; who waits in a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.device_paths.card_runs import ON_CARD, end_state, project, train_on_card, train_on_cpu
from tests.reliability import small
from tests.simulated_device import simulated_card

ACCUMULATION = "training.gradient_accumulation=2"
SHAPES = 2  # of the project's pictures; a window of timesteps asks once more which samples it holds
# What differs from the CPU on purpose: sums in another order, and a stream that is read on the host.
OWN_BITS: dict[str, tuple[str, ...]] = {
    "oversampling": ("noise.oversampling=8",),
    "oversampling, cosine, among, window": ("noise.oversampling={k=8,metric='cosine',among=2,timesteps=[200,800]}",),
    "oversampling, coarse": ("noise.oversampling={k=8,score='coarse',block=2}",),
    "matched": ("noise.matched=8",),
    "pyramid": ("noise.pyramid=3",),
    "all": ("noise={oversampling=8,offset=0.1,pyramid=2,perturbation=0.1}",),
}
BITS_OF_THE_CPU: dict[str, tuple[str, ...]] = {
    "eager oversampling": ("noise.oversampling={k=8,candidates='eager',among=2}",),
    "assignment": ("noise.assignment='batch'",),
    "assignment, float16": ("noise.assignment={pool='batch',precision='float16'}",),
    "assignment of a step": ("noise.assignment='step'", ACCUMULATION),
    "assignment ahead": ("noise.assignment=6",),
    "assignment of candidates, in a window": ("noise.assignment={pool=6,candidates=3,timesteps=[100,900]}",),
    "offset": ("noise.offset={strength=0.1,random_strength=true,adaptive=0.1,time_dependent=true}",),
    "perturbation": ("noise.perturbation={gamma=0.1,random_strength=true}",),
}


@pytest.mark.parametrize("overrides", BITS_OF_THE_CPU.values(), ids=BITS_OF_THE_CPU)
def test_a_stage_gives_the_bits_of_the_cpu(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    file = project(tmp_path / "a project")
    train_on_card(file, "training.steps=2", *overrides)
    train_on_cpu(file, "training.steps=2", *overrides)
    assert end_state(file, "card") == end_state(file, "cpu")


@pytest.mark.parametrize("overrides", OWN_BITS.values(), ids=OWN_BITS)
def test_a_stage_trains_on_the_card(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    file = project(tmp_path / "a project")
    train_on_card(file, "training.steps=2", *overrides)
    assert all(0 < loss < 10 for loss in small.losses(file, "card").values())


@pytest.mark.parametrize("overrides", [*OWN_BITS.values(), *BITS_OF_THE_CPU.values()])
def test_only_assignment_waits_and_once_for_each_shape_of_a_pool(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    assigned = "assignment" in overrides[0]
    with simulated_card() as card:
        found = small.training(project(tmp_path / "a project"), ON_CARD, "training.steps=99", *overrides)
        with found.folder.opened():
            for finished in range(3):  # tables go to the device once, some for each shape
                found.loop.take_step(finished)
            for finished in range(3, 7):  # in four steps of two a pool of six begins
                with card.recording() as seen:
                    found.loop.take_step(finished)
                noisy = [w for w in seen.waits if w.where.file.startswith("plugins/noise")]
                allowed = 1 if "batch" in overrides[0] else SHAPES * (2 if "timesteps" in overrides[0] else 1)
                assert len(noisy) <= (allowed if assigned else 0), list(map(str, noisy))
                assert len(seen.waits) - len(noisy) <= 1, list(map(str, seen.waits))
