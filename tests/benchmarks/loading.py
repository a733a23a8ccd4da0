"""The host's memory while a base is loaded, as a folder and as one file, at the size of SD 1.5 and of SDXL.

    python tests/benchmarks/loading.py [--json FILE] [--only sd1] [--precision bf16]

Bases have random weights in float16, written tensor by tensor, so that making them takes no memory. Each is loaded in a
process of its own; its peak is that of the resident set, above what it held before, and the weights are those that are
kept then: the run's precision, the VAE in float32.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import psutil
import torch
from rich.console import Console as Rich
from rich.table import Table
from torch import Tensor

from gpu_check.architecture import write_outline
from plugins.models import _clip, _diffusers_folder, _single_file
from trainer.assembly.model import open_family
from trainer.config.schema.whole import Config
from trainer.run.results import DTYPES

VERSIONS = ("sd1", "sdxl")


def family_of(base: Path, **settings: Any) -> Any:
    return open_family(Config.model_validate({"model": {"base": str(base)}}), **settings)


def write(path: Path, shapes: Mapping[str, Tensor]) -> None:
    """A safetensors file of float16 numbers, small ones, of these shapes."""
    header, at = {}, 0
    for name, tensor in shapes.items():
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [at, at + 2 * tensor.numel()]}
        at += 2 * tensor.numel()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul(0.02).half().numpy().tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for left in range(at, 0, -len(block)):
            file.write(block[: min(left, len(block))])


def folder_of(version: str, folder: Path) -> Path:
    """The outline with its weights."""
    write_outline(version, folder)
    family = family_of(folder, outline=True)
    for part, module in {**family.parts, "vae": family.vae}.items():
        text = part.startswith("text_encoder")
        stem = _diffusers_folder.TRANSFORMERS_STEM if text else _diffusers_folder.DIFFUSERS_STEM
        state = module.state_dict()
        write(folder / part / f"{stem}.safetensors", _clip.prefixed_names(state) if text else state)
    return folder


def file_of(folder: Path) -> Path:
    """The same in the original layout; its tokenizers are beside it."""
    family = family_of(folder, outline=True)
    layout = family.components.layout
    shapes: dict[str, Tensor] = {}
    for part, module in {**family.parts, "vae": family.vae}.items():
        config = {} if part in layout.text else dict(module.config)
        shapes |= _single_file.to_original(module.state_dict(), part, config, layout, complete=True)
    write(folder / "one.safetensors", shapes)
    return folder / "one.safetensors"


def loaded(base: Path, precision: str) -> dict[str, float]:
    """In this process: bytes and seconds."""
    family_of(base, outline=True)  # imports
    before = psutil.Process().memory_info().rss
    began = time.perf_counter()
    family = family_of(base, dtype=DTYPES[precision])
    taken = time.perf_counter() - began
    kept = sum(p.numel() * p.element_size() for m in (*family.parts.values(), family.vae) for p in m.parameters())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {"kept_bytes": kept, "peak_bytes": peak, "ratio": peak / kept, "seconds": taken}


def measured(base: Path, precision: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--load", str(base), "--precision", precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows(version: str, precision: str) -> Iterator[tuple[str, dict[str, float]]]:
    with tempfile.TemporaryDirectory() as place:
        folder = folder_of(version, Path(place) / version)
        yield f"{version} folder", measured(folder, precision)
        yield f"{version} file", measured(file_of(folder), precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=VERSIONS)
    parser.add_argument("--precision", choices=[*DTYPES], default="bf16")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(loaded(arguments.load, arguments.precision)))
        return
    table, figures = Table("base", "kept", "peak", "peak / kept", "seconds"), {}
    for version in [arguments.only] if arguments.only else VERSIONS:
        for name, found in rows(version, arguments.precision):
            figures[name] = found
            sizes = [f"{found[key] / 1e9:.2f} GB" for key in ("kept_bytes", "peak_bytes")]
            table.add_row(name, *sizes, f"{found['ratio']:.2f}", f"{found['seconds']:.1f}")
    Rich().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"precision": arguments.precision, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
