"""What each process of the two-process test runs: trains, and writes down what it saw."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch

from tests.trainer import runs
from trainer.batch import Batch


def main(project: Path, *overrides: str) -> None:
    torch.set_num_threads(1)
    resume = "--resume" in overrides
    found = runs.training(project, "noise.oversampling=8", *(o for o in overrides if o != "--resume"), resume=resume)
    names: list[tuple[str, ...]] = []
    real = found.loop.batch

    def batch(index: int) -> Batch:
        one = real(index)
        names.append(one.names)
        return one

    found.loop.batch = batch
    found.run()
    digest = hashlib.sha256()
    for parameter in found.loop.network.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    accelerator = found.loop.accelerator
    record = {"processes": accelerator.num_processes, "weights": digest.hexdigest(), "names": names}
    (project.parent / f"rank-{accelerator.process_index}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
