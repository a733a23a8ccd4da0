"""Times the levers of speed and memory on a tiny model on the CPU, each against the same run without it, in turns.

    python tests/benchmarks/levers.py [--json FILE] [--rounds 20]

What a CPU tells is the price of each lever in operations and in Python; what it buys on a GPU it does not tell.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from rich.console import Console as Rich
from rich.table import Table

from tests.trainer import runs
from trainer.assembly.run import PreparedRun
from trainer.device.compilation import obstacle

WARM_UP = 3
FULL = ("training.method='full'", "training.max_grad_norm=0")
BF16 = (*FULL, "training.precision='bf16'")
PLAIN = {"LoRA": (), "full": FULL, "full, bf16 arithmetic": BF16}


@dataclass(frozen=True)
class Case:
    base: str  # of PLAIN
    settings: tuple[str, ...]


CASES = {
    "recompute every second block": Case("LoRA", ("training.gradient_checkpointing='selective'",)),
    "recompute every block": Case("LoRA", ("training.gradient_checkpointing='full'",)),
    "channels last": Case("LoRA", ("performance.channels_last=true",)),
    "compiled blocks": Case("LoRA", ("performance.compile=true",)),
    "limited length of adapters": Case("LoRA", ("lora.max_norm=1.0",)),
    "average of the weights": Case("LoRA", ("ema.decay=0.999",)),
    "AdamW without the fused kernel": Case("LoRA", ("optimizer.args={fused=false}",)),
    "update in the backward pass": Case("full", ("training.fused_backward=true",)),
    "the same, Adafactor": Case("full", ("training.fused_backward=true", "optimizer.name='adafactor'")),
    "bf16 weights, random rounding": Case("full, bf16 arithmetic", ("training.weight_dtype='bf16'",)),
    "the same, update in the backward pass": Case(
        "full, bf16 arithmetic", ("training.weight_dtype='bf16'", "training.fused_backward=true")
    ),
}


def step_seconds(found: PreparedRun, number: int) -> float:
    began = time.perf_counter()
    found.loop.take_step(number)
    return time.perf_counter() - began


def kept_for_backward(found: PreparedRun) -> int:
    """Bytes that one forward pass keeps for the backward pass, besides the weights."""
    weights = {p.untyped_storage().data_ptr() for part in found.family.parts.values() for p in part.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found.loop.gradients.eager(0)
    found.loop.end.optimizer.zero_grad()
    return sum(storage.nbytes() for at, storage in kept.items() if at not in weights)


def measure(file: Path, name: str, case: Case, rounds: int) -> dict[str, float]:
    """Medians of steps taken in turns with those of the run without the lever."""

    def ready(label: str, settings: tuple[str, ...]) -> PreparedRun:
        steps = f"training.steps={rounds + WARM_UP + 1}"
        return runs.training(file, *PLAIN[case.base], *settings, steps, f"run.name='{label}'", "general.batch_size=4")

    plain, levered = ready(f"{name}, without", ()), ready(name, case.settings)
    kept = {label: kept_for_backward(one) for label, one in (("plain", plain), ("levered", levered))}
    seconds: dict[str, list[float]] = {"plain": [], "levered": []}
    with plain.folder.opened(), levered.folder.opened():
        for number in range(rounds + WARM_UP):
            for label, one in (("plain", plain), ("levered", levered)):
                seconds[label].append(step_seconds(one, number))
    pairs = zip(seconds["levered"][WARM_UP:], seconds["plain"][WARM_UP:], strict=True)
    return {
        "seconds": statistics.median(seconds["levered"][WARM_UP:]),
        "first_seconds": seconds["levered"][0],
        "time_ratio": statistics.median(a / b for a, b in pairs),
        "kept_bytes": kept["levered"],
        "kept_ratio": kept["levered"] / kept["plain"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        file = runs.make_project(Path(folder) / "tiny", images=8)
        for name, case in CASES.items():
            if arguments.only in name and (name != "compiled blocks" or not obstacle()):
                figures[name] = measure(file, name, case, arguments.rounds)
    table = Table("lever", "on", "ms a step", "first step, s", "time / without", "activations kept / without")
    for name, row in figures.items():
        table.add_row(
            name, CASES[name].base, f"{row['seconds'] * 1000:.1f}", f"{row['first_seconds']:.1f}",
            f"{row['time_ratio']:.2f}", f"{row['kept_ratio']:.2f}",
        )  # fmt: skip
    Rich(width=120).print(table)
    if arguments.json:
        versions = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
        arguments.json.write_text(json.dumps(versions | {"device": "cpu", "levers": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
