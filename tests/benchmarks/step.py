"""Times a training step against a bare loop and against diffusers' LoRA recipe, in turns in one process.

    python tests/benchmarks/step.py [--json FILE] [--rounds 100]

The bare loop is the same forward, backward and optimizer over the same network: latents and text in memory, plain
noise, no log, clipping, guard, schedule or random streams. The trainer runs with Noise Oversampling, clipping and its
guards on. The recipe (recipe.py) trains fewer layers and encodes images and captions in every step.

On a CPU the tiny model; with a GPU also SD 1.5 and SDXL in full size. Times are medians of the steps after the first
20; the first step is told apart, and the building of everything before it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from rich.console import Console as Rich
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from plugins.models.sd import StableDiffusion
from tests import full_size
from tests.benchmarks import cases, recipe
from tests.trainer import runs
from trainer.assembly.memory import estimate
from trainer.assembly.run import PreparedRun
from trainer.config import reading
from trainer.device.checkpointing import set_level

WARM_UP = 20
RANK = 16
SELDOM = 4  # every so many turns the network alone and the recipe have theirs
Step = Callable[[int], None]


def network_step(found: PreparedRun, *, update: bool) -> Step:
    """Forward and backward of the same network on the same batches; `update`: with the optimizer, the bare loop."""
    network, optimizer, device = found.loop.network, found.loop.end.optimizer, found.loop.accelerator.device
    objective = found.loop.gradients.step.objective
    batches = [found.loader.batch(i).to(device) for i in range(min(4, found.loader.plan.batches_per_epoch))]

    def step(number: int) -> None:
        batch = batches[number % len(batches)]
        clean = batch.latents
        assert clean is not None
        noise = torch.randn_like(clean)
        t = torch.randint(0, 1000, (len(clean),), device=device)
        prediction = network(objective.noisy(clean, noise, t), t, batch.text, batch.captions, batch.geometry)
        loss = torch.nn.functional.mse_loss(prediction.float(), objective.target(clean, noise, t))
        loss.backward()
        if update:
            optimizer.step()
        optimizer.zero_grad()

    return step


def synchronised(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(step: Step, first: int, count: int, device: torch.device) -> float:
    """Of one step, on average over `count` that nothing waits between."""
    synchronised(device)
    began = time.perf_counter()
    for number in range(first, first + count):
        step(number)
    synchronised(device)
    return (time.perf_counter() - began) / count


@dataclass
class Waiting:
    """The batches of a loop, and how long it waited for them."""

    batch: Callable[[int], Any]
    spent: float = 0.0

    def __call__(self, index: int) -> Any:
        began = time.perf_counter()
        made = self.batch(index)
        self.spent += time.perf_counter() - began
        return made


def compare(
    found: PreparedRun, recipe_step: Step | None, rounds: int, images: int, building: float, flops: float
) -> dict[str, float]:
    """All figures of a case. A ratio of 1 = as fast as the bare loop; the recipe's speed-up = its time / ours.

    flops: of a step, without what checkpointing computes again.
    """
    device = found.loop.accelerator.device
    together = 5 if device.type == "cuda" else 1
    waiting = Waiting(found.loop.gradients.batch)
    found.loop.gradients.batch = waiting
    runners: dict[str, Step] = {
        "ours": found.loop.take_step,
        "bare": network_step(found, update=True),
        "network": network_step(found, update=False),
    }
    if recipe_step is not None:
        runners["recipe"] = recipe_step
    first = seconds(found.loop.take_step, 0, 1, device)
    times: dict[str, dict[int, float]] = {name: {} for name in runners}
    waits = []
    for turn, at in enumerate(range(1, rounds + WARM_UP, together)):
        for name, step in runners.items():
            if name in ("network", "recipe") and turn % SELDOM:
                continue
            before = waiting.spent
            taken = seconds(step, at, together, device)
            if at >= WARM_UP:
                times[name][at] = taken
            if name == "ours" and at >= WARM_UP:
                waits.append((waiting.spent - before) / together)
    usual = {name: statistics.median(each.values()) for name, each in times.items()}
    figures = {
        "seconds": usual["ours"],
        "images_per_second": images / usual["ours"],
        "building_seconds": building,
        "first_step_seconds": first,
        "bare_seconds": usual["bare"],
        "ratio_to_bare_loop": ratio(times["bare"], times["ours"]),
        "loader_wait_share": statistics.median(waits) / usual["ours"],
        "non_network_share": 1 - ratio(times["network"], times["ours"]),
        "tflop_per_step": flops / 1e12,
        "share_of_peak": flops / usual["ours"] / peak_flops(device, found),
    }
    if recipe_step is not None:
        figures["recipe_seconds"] = usual["recipe"]
        figures["speed_up_over_recipe"] = ratio(times["recipe"], times["ours"])
    return figures


def ratio(one: dict[int, float], other: dict[int, float]) -> float:
    """The median of one time / the other, taken in the same turn: what else the machine did falls on both."""
    return statistics.median(one[at] / other[at] for at in one)


def counted_flops(found: PreparedRun) -> float:
    """Of a step's forward and backward pass, seen while they run."""
    step = network_step(found, update=False)
    with FlopCounterMode(display=False) as counter:
        step(0)
    return float(counter.get_total_flops())


def peak_flops(device: torch.device, found: PreparedRun) -> float:
    """What this device reaches in a large matrix product, in the run's precision."""
    size = 8192 if device.type == "cuda" else 1024
    dtype = next(found.family.parts["unet"].parameters()).dtype
    matrix = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(seconds(lambda _: torch.mm(matrix, matrix), 0, 5, device) for _ in range(4))


def tiny_cpu(folder: Path, rounds: int) -> dict[str, float]:
    file = runs.make_project(folder / "tiny", images=8)
    began = time.perf_counter()
    found = runs.training(
        file,
        "noise.oversampling=64",
        f"training.steps={rounds + WARM_UP + 1}",
        f"lora.rank={RANK}",
        "logging.every=10",
        "general={batch_size=4,enable_bucket=false}",
    )
    building = time.perf_counter() - began
    family = StableDiffusion.load(str(file.parent / "base"))
    pixels = torch.rand(4, 3, 64, 64) * 2 - 1
    theirs = recipe.loop(family, pixels, ["a photo of a cat"] * 4, rank=RANK, autocast=found.loop.accelerator.autocast)
    with found.folder.opened():
        return compare(found, theirs, rounds, 4, building, counted_flops(found))


@dataclass(frozen=True)
class Case:
    version: str  # of tests.full_size
    method: str
    batch: int
    checkpointing: str = "off"
    compiled: bool = False

    @property
    def name(self) -> str:
        marks = [f"checkpointing {self.checkpointing}"] * (self.checkpointing != "off") + ["compiled"] * self.compiled
        return " ".join([self.version, self.method, f"b{self.batch}", *marks])

    @property
    def side(self) -> int:
        return 1024 if self.version == "sdxl" else 512

    @property
    def settings(self) -> list[str]:
        return [
            "run.device='cuda'", "training.precision='bf16'", f"training.method='{self.method}'",
            f"training.gradient_checkpointing='{self.checkpointing}'", f"general.batch_size={self.batch}",
            f"performance.compile={str(self.compiled).lower()}", "noise.oversampling=64", "training.preflight=false",
            "logging.every=10", f"lora.rank={RANK}",
        ]  # fmt: skip


def gpu_cases() -> Iterator[Case]:
    for version in ("sd1", "sdxl"):
        for method in ("lora", "full"):
            yield from (Case(version, method, batch) for batch in (1, 4, 8, 16))
            yield from (Case(version, method, batch, compiled=True) for batch in (1, 4, 8, 16))
            yield from (Case(version, method, 4, level) for level in ("selective", "full"))


def on_gpu(case: Case, folder: Path, rounds: int) -> dict[str, float]:
    file = cases.project(folder / case.name.replace(" ", "-"), case.side, 4 * case.batch)
    overrides = [*case.settings, f"training.steps={rounds + WARM_UP + 1}"]
    plain = reading.read(file, [*overrides, "training.gradient_checkpointing='off'"])
    flops = estimate(plain, full_size.make(case.version)).operations
    began = time.perf_counter()
    found = cases.training(file, case.version, overrides)
    building = time.perf_counter() - began
    theirs = None
    if case.method == "lora":
        family = full_size.filled(case.version, torch.bfloat16)
        family.to(torch.device("cuda"), torch.bfloat16)
        set_level([family.unet], "off" if case.checkpointing == "off" else "full")  # the recipe has no other
        pixels = torch.rand(case.batch, 3, case.side, case.side, device="cuda") * 2 - 1
        captions = ["a photo of a cat"] * case.batch
        theirs = recipe.loop(family, pixels, captions, rank=RANK, autocast=found.loop.accelerator.autocast)
    with found.folder.opened():
        return compare(found, theirs, rounds, case.batch, building, flops)


def table(figures: dict[str, dict[str, float]]) -> Table:
    heads = ("case", "ms", "images/s", "first s", "bare / ours", "recipe / ours", "loader", "not network", "of peak")
    shown = Table(*heads)
    for name, row in figures.items():
        if not row:
            shown.add_row(name, "the memory ran out")
            continue
        shown.add_row(
            name,
            f"{row['seconds'] * 1000:.1f}",
            f"{row['images_per_second']:.1f}",
            f"{row['first_step_seconds']:.2f}",
            f"{row['ratio_to_bare_loop']:.3f}",
            f"{row['speed_up_over_recipe']:.2f}" if "speed_up_over_recipe" in row else "-",
            f"{row['loader_wait_share']:.1%}",
            f"{row['non_network_share']:.1%}",
            f"{row['share_of_peak']:.1%}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        figures["tiny_cpu"] = tiny_cpu(Path(folder), arguments.rounds)
        for case in gpu_cases() if torch.cuda.is_available() else ():
            try:
                figures[case.name] = on_gpu(case, Path(folder), arguments.rounds)
            except torch.OutOfMemoryError:
                figures[case.name] = {}
            torch.cuda.empty_cache()
    Rich().print(table(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps({"environment": cases.environment(), **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
