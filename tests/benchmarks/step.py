"""Times a training step against a bare loop of the same forward, backward and optimizer, in turns in one process.

    python tests/benchmarks/step.py [--json FILE] [--rounds 40]

The bare loop has latents and text in memory, plain noise, and no log, clipping, guard, schedule or random streams; the
trainer runs with Noise Oversampling, clipping and its guards on.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from rich.console import Console as Rich
from rich.table import Table

from tests.trainer import runs
from trainer.build import Training

WARM_UP = 5


def bare_step(found: Training) -> Callable[[int], None]:
    """The shortest loop that trains the same weights of the same network on the same batches."""
    network, optimizer, device = found.loop.network, found.loop.optimizer, found.loop.accelerator.device
    objective = found.loop.step.objective
    batches = [found.loader.batch(i).to(device) for i in range(found.loader.plan.batches_per_epoch)]

    def step(number: int) -> None:
        batch = batches[number % len(batches)]
        clean = batch.latents
        assert clean is not None
        noise = torch.randn_like(clean)
        t = torch.randint(0, 1000, (len(clean),), device=device)
        prediction = network(objective.noisy(clean, noise, t), t, batch.text, batch.captions, batch.geometry)
        loss = torch.nn.functional.mse_loss(prediction.float(), objective.target(clean, noise, t))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def synchronised(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def compare(found: Training, rounds: int) -> dict[str, float]:
    """Seconds of both, as medians over steps taken in turns, and the ratio bare / ours (1 = no overhead)."""
    device = found.loop.accelerator.device
    bare = bare_step(found)
    ours, theirs = [], []
    for number in range(rounds + WARM_UP):
        for step, times in ((found.loop.take_step, ours), (bare, theirs)):
            synchronised(device)
            began = time.perf_counter()
            step(number)
            synchronised(device)
            times.append(time.perf_counter() - began)
    ours, theirs = ours[WARM_UP:], theirs[WARM_UP:]
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "seconds": statistics.median(ours),
        "bare_seconds": statistics.median(theirs),
        "ratio_to_bare_loop": statistics.median(ratios),
    }


def tiny_cpu(folder: Path, rounds: int) -> dict[str, float]:
    file = runs.make_project(folder / "tiny", images=8)
    found = runs.training(
        file,
        "noise.oversampling=64",
        f"training.steps={rounds + WARM_UP + 1}",
        "logging.every=10",
        "general.batch_size=4",
    )
    with found.folder.opened():
        return compare(found, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = {"tiny_cpu": tiny_cpu(Path(folder), arguments.rounds)}
    table = Table("case", "ms a step", "ms bare", "bare / ours")
    for name, row in figures.items():
        seconds = (f"{row[key] * 1000:.1f}" for key in ("seconds", "bare_seconds"))
        table.add_row(name, *seconds, f"{row['ratio_to_bare_loop']:.3f}")
    Rich().print(table)
    if arguments.json:
        versions = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
        arguments.json.write_text(json.dumps(versions | figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
