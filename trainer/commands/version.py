"""What `--version` says: the trainer's version, and those of what it stands on, for a report of a fault."""

from __future__ import annotations

import platform
from importlib import metadata

from trainer import __version__

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes")


def line() -> str:
    """Imports none of the packages."""
    found = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    return f"Immiscible Trainer {__version__} (Python {platform.python_version()}, {', '.join(found)})"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
