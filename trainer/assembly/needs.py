"""What a run needs, in words: memory, and the time that this machine's arithmetic takes at least."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import psutil
import torch

from trainer.assembly.looks import operations as looks_of
from trainer.assembly.memory import RESERVED, MemoryEstimate
from trainer.assembly.processes import accelerator_for
from trainer.config.schema.whole import BaseConfig
from trainer.data.order.holdout import Split
from trainer.files.atomic import size_text
from trainer.journal.console import clock
from trainer.run.advice import memory_advice
from trainer.run.results import DTYPES
from trainer.training.pace import Pace

Precision = Literal["fp32", "bf16", "fp16"]
ROUNDS = 5
FIFTH = 0.2  # of the time of a run: what validation and samples may take before it is told how to take less
LOADING = 1.25  # of the weights that are kept, while they are read (tests/benchmarks/loading.py: 1.10 to 1.20)
PROCESS = {"cpu": 0.9e9, "cuda": 2.5e9}  # bytes: Python and its libraries; with CUDA's, which is assumed
MEASURE = "`check --preflight` takes one step and measures both."


def estimate_lines(
    needs: MemoryEstimate, config: BaseConfig, pace: Pace, split: Split, usual: Mapping[str, Any]
) -> list[str]:
    """usual: `Family.drawn`."""
    device = accelerator_for(config).device
    return [
        memory_line(needs, config, device),
        host_line(needs, config, split, device),
        time_line(needs, config, pace, split, device, usual),
        MEASURE,
    ]


def host_line(needs: MemoryEstimate, config: BaseConfig, split: Split, device: torch.device) -> str:
    """What the host's memory has to hold, and that it does not where it is too small."""
    kept = config.data.cache_latents and not config.data.cache_to_disk
    pixels = sum(item.target[0] * item.target[1] for part in (split.training, split.held_out) for item in part.items)
    latents = needs.latent * pixels if kept else 0.0
    steps = needs.training if device.type == "cpu" else 0.0
    found = max(LOADING * needs.base, steps) + needs.average + latents + PROCESS.get(device.type, PROCESS["cpu"])
    parts = {"base": needs.base, "averaged weights": needs.average, "latents of all images": latents}
    told = ", ".join(f"{what} {size_text(round(size))}" for what, size in parts.items() if size >= 2**20)
    there = psutil.virtual_memory()
    line = f"Host memory: about {size_text(round(found))} ({told}); this machine has {size_text(there.total)}"
    if found <= there.available:
        return f"{line}."
    less = [
        *(["data.cache_to_disk = true"] if latents > 0.1 * found else []),
        *(["ema.device = 'cuda'"] if needs.average > 0.1 * found else []),
        "fewer other programs",
    ]
    return f"{line}, of which {size_text(there.available)} are free: too little. What saves most: {', '.join(less)}."


def memory_line(needs: MemoryEstimate, config: BaseConfig, device: torch.device) -> str:
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


def time_line(
    needs: MemoryEstimate,
    config: BaseConfig,
    pace: Pace,
    split: Split,
    device: torch.device,
    usual: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    precision = good_precision(config, device)
    speed = operations_per_second(device, DTYPES[precision])
    work = needs.operations * pace.accumulation
    steps = pace.steps * work / speed
    looks = {what: n / speed for what, n in looks_of(config, pace, split, needs.forward, steps, usual).items()}
    return (
        f"Time: {work / 1e12:.3g} TFLOP a step with the largest batch. The {device.type} here multiplies matrices of "
        f"{precision} at {speed / 1e12:.3g} TFLOP/s; at that rate {pace.steps:,} steps take {clock(steps)}"
        + (f", with {' and '.join(looks)} {clock(steps + sum(looks.values()))}" if looks else "")
        + f", in training longer.{_much(looks, steps)}"
    )


def _much(looks: Mapping[str, float], steps: float) -> str:
    """That validation and samples take much of the time, if they do. Both in seconds."""
    whole = steps + sum(looks.values())
    if not looks or sum(looks.values()) <= FIFTH * whole:
        return ""
    shares = " and ".join(f"{what} {seconds / whole:.0%}" for what, seconds in looks.items())
    less = " and ".join(f"{what}.every" for what in looks)
    return f" Of the whole {shares}: fewer pictures, or a larger {less}, take less."


def good_precision(config: BaseConfig, device: torch.device) -> Precision:
    """In which the device's speed is measured. Processors multiply bf16 by way of float32, or many times slower."""
    return config.training.precision if device.type == "cuda" else "fp32"


@torch.no_grad()
def operations_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Of products of two matrices: more than any network reaches. On a GPU they are so large, and so many are waited
    for at once, that starting them and hearing of their end does not count: 1,024^3 takes an H100 3 us."""
    side, together = (4096, 8) if device.type == "cuda" else (1024, 1)
    one = torch.randn(side, side, device=device).to(dtype)
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(together):
            product = one @ one
        float(product[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - began)
    return float(2 * side**3 * together / statistics.median(seconds))
