"""What each process of the two-process test runs: trains, and writes down what it saw."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tests.trainer import runs
from trainer.batch import Batch
from trainer.optim.sharded_tensor import local, whole
from trainer.training.loop import Loop


def train(project: Path, *overrides: str, prepare: Callable[[Loop], None] | None = None) -> dict[str, Any]:
    """overrides: of the config, or --resume; prepare: what is done to the loop before it runs."""
    torch.set_num_threads(1)
    resume = "--resume" in overrides
    found = runs.training(project, "noise.oversampling=8", *(o for o in overrides if o != "--resume"), resume=resume)
    names: list[tuple[str, ...]] = []
    real = found.loop.gradients.batch

    def batch(index: int) -> Batch:
        one = real(index)
        names.append(one.names)
        return one

    found.loop.gradients.batch = batch
    if prepare is not None:
        prepare(found.loop)
    found.run()
    digest = hashlib.sha256()
    weights = list(found.loop.network.parameters())
    for weight in weights:
        digest.update(whole(weight).float().numpy().tobytes())
    accelerator = found.loop.accelerator
    return {
        "processes": accelerator.num_processes,
        "weights": digest.hexdigest(),
        "names": names,
        "states": _numbers(getattr(found.loop.end.optimizer, "split", found.loop.end.optimizer)),
        "sharded": found.loop.gradients.processes.sharded,
        "held": sum(local(w).numel() for w in weights) / sum(w.numel() for w in weights),
    }


def _numbers(optimizer: Optimizer) -> int:
    """How many an optimizer holds about weights."""
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(local(value).numel() for value in values if isinstance(value, Tensor) and value.ndim)


if __name__ == "__main__":
    given = Path(sys.argv[1])
    seen = train(given, *sys.argv[2:])
    (given.parent / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(seen))
