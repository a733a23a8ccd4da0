"""What a run was made with: versions, device, source revision."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from trainer import __version__
from trainer.atomic import write_text

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "bitsandbytes",
    "numpy",
    "pillow",
)


def describe(device: torch.device) -> dict[str, object]:
    return {
        "trainer": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cuda": torch.version.cuda,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def write(path: Path, device: torch.device) -> None:
    write_text(path, json.dumps(describe(device), indent=2) + "\n")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The git revision of the trainer's own checkout, if it is one."""
    try:
        folder = Path(__file__).parent
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
