"""What a run was made with: versions, device, source revision, fingerprints of base and images. No path, no secret."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from trainer import __version__
from trainer.data.dataset import Dataset
from trainer.files.atomic import write_text

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "bitsandbytes",
    "pytorch-optimizer",
    "numpy",
    "pillow",
)
_PIECE, _PIECES = 1 << 16, 64  # bytes that are read of a large file, and how often


def describe(device: torch.device, made_from: Mapping[str, object] | None = None) -> dict[str, Any]:
    """made_from: fingerprints and whatever else of the run can keep a continuation from being bit for bit the same."""
    return {
        "trainer": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cuda": torch.version.cuda,
        "packages": {name: _version(name) for name in PACKAGES},
        **(made_from or {}),
    }


def write(path: Path, environment: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(environment, indent=2) + "\n")


def read(path: Path) -> dict[str, Any]:
    """What an earlier start of the run wrote; empty when there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What keeps the continuation of a run from being bit for bit the uninterrupted one, as lines to tell."""
    if not before:
        return []
    found = [
        f"{key} {before[key]} -> {now[key]}"
        for key in ("device", "cuda", "processes", "cudnn_benchmark")
        if key in before and key in now and before[key] != now[key]
    ]
    packages = before.get("packages", {})
    found += [f"{n} {packages[n]} -> {v}" for n, v in now["packages"].items() if n in packages and packages[n] != v]
    lines = (
        [f"this run began with other versions ({', '.join(found)}): it goes on, but not bit for bit"] if found else []
    )
    if "dataset" in before and before["dataset"] != now.get("dataset"):
        lines.append("the images or captions changed since this run began: it goes on with them, in another order")
    return lines


def fingerprint(path: Path) -> str | None:
    """A hash of a file's or folder's names, sizes and contents, None when it is not there.

    Of a file above 4 MB 64 pieces spread over its length are read: a model of 7 GB takes milliseconds, and any training
    step changes every piece of it.
    """
    if not path.exists():
        return None
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        name = "" if file == path else file.relative_to(path).as_posix()
        total.update(f"{name} {file.stat().st_size}\n".encode("utf-8", "surrogateescape"))
        for piece in _pieces(file):
            total.update(piece)
    return total.hexdigest()


def fingerprint_of_settings(settings: Mapping[str, object]) -> str:
    return _hash_of([json.dumps(settings, sort_keys=True)])


def fingerprint_of_images(dataset: Dataset) -> str:
    """Of names, sizes in bytes, shapes, captions and repeats; no image is read."""
    return _hash_of(
        f"{Path(item.path).name} {_size(item.path)} {item.target} {item.repeats} {item.captions}"
        for item in dataset.items
    )


def _hash_of(lines: Iterable[str]) -> str:
    total = hashlib.sha256()
    for line in lines:
        total.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return total.hexdigest()


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1


def _pieces(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        if size <= _PIECE * _PIECES:
            yield opened.read()
            return
        for number in range(_PIECES):
            opened.seek((size - _PIECE) * number // (_PIECES - 1))
            yield opened.read(_PIECE)


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
