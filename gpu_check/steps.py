"""Measures the training steps of a case: their time, their share of what the device can do, their memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpu_check.architecture import opened_on
from gpu_check.case import Case
from gpu_check.machine import forget, good_dtype, wait
from trainer.assembly import run as assembled
from trainer.assembly.memory import estimate, passes
from trainer.assembly.model import open_family
from trainer.config.schema.base import changed
from trainer.config.schema.whole import BaseConfig
from trainer.device import kernels
from trainer.errors import RunError
from trainer.journal.console import Console

WARM_UP = 4
TOGETHER = 3  # steps that are timed at once: nothing waits between them
LEAST, MOST = 2, 12  # times that so many are


@dataclass(frozen=True)
class Bench:
    """Where cases are measured."""

    device: torch.device
    folders: dict[str, Path]  # of gpu_check.case.project, by version
    operations_per_second: float  # of the device
    seconds: float = 6.0  # that are spent on the timed steps of a case, or a little more


def measure(case: Case, bench: Bench) -> dict[str, Any]:
    """The figures of a case, or {"error": ...} where this machine is too small for it. Bytes and seconds."""
    config = case.config(bench.folders[case.version], bench.device)
    figures = _estimated(config, bench.device)
    try:
        with kernels.kept():
            figures |= _measured(case, config, bench)
    except (torch.OutOfMemoryError, RunError) as error:
        figures["error"] = str(error).splitlines()[0]
    finally:
        forget(bench.device)
    taken, operations = figures.get("seconds"), figures["operations"]
    if taken:
        figures["images_per_second"] = case.batch / taken
        figures["share_of_roofline"] = operations / taken / bench.operations_per_second
    return figures


def _estimated(config: BaseConfig, device: torch.device) -> dict[str, Any]:
    """What `check` says. Operations without those that recomputation repeats."""
    found = estimate(config, open_family(config, outline=True))
    once = changed(config, training=changed(config.training, gradient_checkpointing="off"))
    operations = found.operations
    if config.training.gradient_checkpointing != "off":
        operations *= passes(once) / passes(config)
    return {"estimated_bytes": found.training, "estimated_total": found.total, "operations": operations}


def _measured(case: Case, config: BaseConfig, bench: Bench) -> dict[str, Any]:
    device, before = bench.device, _held(bench.device)
    dtype = torch.float32 if case.full else good_dtype(device)
    began = time.perf_counter()
    found = assembled.training(config, Console(quiet=True), opened=opened_on(device, dtype))
    assert found is not None
    if case.lever is not None:
        case.lever(found)
    with found.folder.opened():
        wait(device)
        built = time.perf_counter()
        found.loop.take_step(0)
        wait(device)
        figures: dict[str, Any] = {
            "building_seconds": built - began,
            "first_step_seconds": time.perf_counter() - built,
            "compiled_blocks": len(found.loop.gradients.compiled.blocks) if found.loop.gradients.compiled else 0,
        }
        _reset(device)
        figures["seconds"] = seconds_of_a_step(found.loop.take_step, device, bench.seconds, first=1)
    return figures | _memory(device, before)


def seconds_of_a_step(step: Callable[[int], object], device: torch.device, limit: float, *, first: int) -> float:
    """The median over groups of steps, after some that are not counted."""
    at = first
    for _ in range(WARM_UP):
        step(at)
        at += 1
    taken: list[float] = []
    while len(taken) < LEAST or (len(taken) < MOST and TOGETHER * sum(taken) < limit):
        wait(device)
        began = time.perf_counter()
        for _ in range(TOGETHER):
            step(at)
            at += 1
        wait(device)
        taken.append((time.perf_counter() - began) / TOGETHER)
    return statistics.median(taken)


def _held(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _memory(device: torch.device, before: int) -> dict[str, Any]:
    """peak: of tensors; reserved: with the allocator's gaps; others: of the card beyond that, as CUDA's context is."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.max_memory_reserved(device)
    return {
        "peak_bytes": torch.cuda.max_memory_allocated(device) - before,
        "reserved_bytes": reserved,
        "other_bytes": total - free - torch.cuda.memory_reserved(device),
    }
