"""What a run needs, in words: memory, and the time that this machine's arithmetic takes at least."""

from __future__ import annotations

import statistics
import time

import torch

from trainer.build.estimate import RESERVED, Estimate
from trainer.build.processes import accelerator_for
from trainer.config import BaseConfig
from trainer.console import clock
from trainer.files.atomic import size_text
from trainer.loop import Pace
from trainer.run.advice import memory_advice
from trainer.run.results import DTYPES

SIDE = 1024  # of the matrices that are multiplied to learn the device's speed
ROUNDS = 5
MEASURE = "`check --preflight` takes one step and measures both."


def estimate_lines(needs: Estimate, config: BaseConfig, pace: Pace) -> list[str]:
    device = accelerator_for(config).device
    return [memory_line(needs, config, device), time_line(needs, config, pace, device), MEASURE]


def memory_line(needs: Estimate, config: BaseConfig, device: torch.device) -> str:
    parts = {
        "weights": needs.weights,
        "optimizer": needs.optimizer,
        "activations and gradients": needs.step,
        "reserve": RESERVED,
    }
    other = {"encoding images": needs.caching, "drawing samples": needs.sampling}
    line = (
        f"Memory: about {size_text(round(needs.total))} of a GPU, estimated. A step takes "
        f"{size_text(round(needs.training + RESERVED))} "
        f"({', '.join(f'{what} {size_text(round(size))}' for what, size in parts.items())})"
        + "".join(f"; {what} takes {size_text(round(size + RESERVED))}" for what, size in other.items() if size)
        + "."
    )
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
        if needs.total > there:
            line += f" This card has {size_text(there)}. What saves most: {memory_advice(config)}."
    return line


def time_line(needs: Estimate, config: BaseConfig, pace: Pace, device: torch.device) -> str:
    speed = operations_per_second(device, DTYPES[config.training.precision])
    work = needs.operations * pace.accumulation
    return (
        f"Time: {work / 1e12:.3g} TFLOP a step with the largest batch. The {device.type} here multiplies matrices at "
        f"{speed / 1e12:.3g} TFLOP/s; at that rate {pace.steps:,} steps take {clock(pace.steps * work / speed)}, "
        "in training longer."
    )


@torch.no_grad()
def operations_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Of a product of two matrices: more than any network reaches."""
    one = torch.randn(SIDE, SIDE, device=device).to(dtype)
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        float((one @ one)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - began)
    return float(2 * SIDE**3 / statistics.median(seconds))
