"""After a power cut at any moment the newest checkpoint that was acknowledged loads, or a newer one, never another."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.reliability import small
from tests.reliability.artefacts import ARTEFACTS, same_state, state
from tests.reliability.disk import watched
from tests.reliability.power import Ledger
from trainer.config import reading
from trainer.files.atomic import tidy
from trainer.journal.run_dir import RunDir
from trainer.run import checkpoint
from trainer.run.resume import Keeper

SEEDS = 500
STEPS = (1, 2, 3, 3, 4, 4)  # a step is saved again after a resume, and by the control file


class Saving:
    """A run's checkpoints: version N is the N-th that is saved, as its weights say."""

    def __init__(self, root: Path, keep: int) -> None:
        self.run_dir = RunDir(root / "output" / "run")
        overrides = [f"save.keep={keep}"]
        config = reading.parse(small.CONFIG, overrides, directory=root)
        self.weights = {"unet.w": torch.nn.Parameter(torch.zeros(40)), "unet.v": torch.nn.Parameter(torch.zeros(()))}
        self.optimizer = torch.optim.SGD(self.weights.values(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        accelerator = SimpleNamespace(is_main_process=True, scaler=None)
        self.keeper = Keeper(self.run_dir, config, accelerator, self.weights, self.optimizer, schedule)  # type: ignore[arg-type]

    def save(self, version: int, step: int) -> None:
        with torch.no_grad():
            for name, weight in state(version, elements=40).weights.items():
                self.weights[name].copy_(weight)
        self.keeper.save(step)
        self.keeper.wait()


@pytest.mark.parametrize("keep", [1, 2])
def test_checkpoints(tmp_path: Path, keep: int) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    ledger, saving = Ledger(root), Saving(root, keep)
    with watched(root, ledger):
        for version, step in enumerate(STEPS, 1):
            saving.save(version, step)
            ledger.mark(version)
    seen = set()
    for seed in range(SEEDS // 2):
        luck = random.Random(f"{keep} {seed}")
        after = tmp_path / "after"
        marks = ledger.cut(luck.randrange(len(ledger.entries) + 1), luck, after)
        checkpoints = RunDir(after / "output" / "run").checkpoints
        tidy(checkpoints)
        found = checkpoint.load_newest(checkpoints, lambda line: None)
        version = 0 if found is None else int(found.weights["unet.v"])
        acknowledged = max(marks, default=0)
        assert acknowledged <= version <= acknowledged + 1, seed
        if found is not None:
            assert found.step == STEPS[version - 1]
            assert torch.equal(found.weights["unet.w"], state(version, elements=40).weights["unet.w"])
        seen.add(version - acknowledged)
        shutil.rmtree(after)
    assert seen == {0, 1}


@pytest.mark.parametrize("name", ARTEFACTS)
def test_everything_else_that_is_written(tmp_path: Path, name: str) -> None:
    """Old or new after every moment, and new once the write has returned."""
    artefact, root = ARTEFACTS[name], tmp_path / "disk"
    root.mkdir()
    ledger = Ledger(root)
    with watched(root, ledger):
        for version in (1, 2):
            artefact.write(root / artefact.name, version)
            ledger.mark(version)
    for seed in range(SEEDS // 5):
        luck = random.Random(f"{name} {seed}")
        after = tmp_path / "after"
        marks = ledger.cut(luck.randrange(len(ledger.entries) + 1), luck, after)
        tidy(after)
        found = artefact.version(after / artefact.name) or 0
        assert max(marks, default=0) <= found <= max(marks, default=0) + 1, seed
        shutil.rmtree(after)


def test_the_oracle_of_these_tests_tells_states_apart() -> None:
    assert same_state(state(1), state(1))
    assert not same_state(state(1), state(2))
