"""What this machine is: its device, how fast that multiplies and copies, which packages there are."""

from __future__ import annotations

import importlib.util
import platform
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch

from trainer import __version__
from trainer.assembly.needs import operations_per_second

VERSIONS = ("torch", "triton", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes", "pytorch-optimizer")
# What a part of the check can do without, and what is left out then.
OPTIONAL = {
    "bitsandbytes": "8-bit optimizers, bases in 8 and 4 bits",
    "pytorch_optimizer": "its optimizers",
    "pytest": "the GPU tests",
    "triton": "compilation",
}
COPIED = 2**30  # bytes
ROUNDS = 5


def device_of() -> torch.device:
    """The first card, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def versions() -> dict[str, str]:
    found = {"immiscible-trainer": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found | {"cuda": torch.version.cuda or "", "cudnn": str(torch.backends.cudnn.version() or "")}


def missing() -> dict[str, str]:
    """Packages that are not there, and what is left out without them."""
    return {name: what for name, what in OPTIONAL.items() if importlib.util.find_spec(name) is None}


def description(device: torch.device) -> dict[str, Any]:
    """Names and sizes; memory in bytes."""
    if device.type != "cuda":
        return {"name": processor(), "kind": "cpu", "threads": torch.get_num_threads()}
    about = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "name": about.name,
        "kind": "cuda",
        "capability": f"{about.major}.{about.minor}",
        "multiprocessors": about.multi_processor_count,
        "memory": total,
        "memory_of_others": total - free,
        "host": processor(),
    }


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 (no file of a project)
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{len(names)} x {names[0]}" if names else platform.processor() or platform.machine()


def speeds(device: torch.device) -> dict[str, float]:
    """Operations and bytes per second that nothing on this device exceeds by much."""
    found = {"operations_per_second": operations_per_second(device, good_dtype(device))}
    source = torch.empty(COPIED if device.type == "cuda" else COPIED // 16, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    taken = min(seconds_of(lambda: target.copy_(source), device) for _ in range(ROUNDS))
    return found | {"bytes_per_second": 2 * source.numel() / taken}  # read and written


def good_dtype(device: torch.device) -> torch.dtype:
    """In which runs calculate there."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Until the device has done it."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget(device: torch.device) -> None:
    """Gives back what nobody holds any more."""
    import gc

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
