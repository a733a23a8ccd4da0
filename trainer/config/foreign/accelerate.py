"""What `accelerate launch` is told, which most trainers are started by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.config.foreign.outcome import Outcome, unneeded

_SEVERAL = ("multi_gpu", "num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port",
            "gpu_ids", "same_network", "rdzv_backend", "use_deepspeed", "use_fsdp", "nproc_per_node")  # fmt: skip


def told(launcher: Mapping[str, Any]) -> dict[str, Outcome]:
    return {f"accelerate --{name}": _of(name) for name in launcher}


def values(launcher: Mapping[str, Any]) -> dict[str, Any]:
    return {f"accelerate --{name}": value for name, value in launcher.items()}


def _of(name: str) -> Outcome:
    if name in _SEVERAL:
        return unneeded("several GPUs are asked for when the run is started: docs/multi-gpu.md")
    if name == "mixed_precision":
        return unneeded("the script's own mixed_precision counts")
    return unneeded("how the process is started; nothing of the training")
