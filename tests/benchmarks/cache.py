"""Times the filling of a cache: images read, resized and encoded by the VAE, in images a second.

    python tests/benchmarks/cache.py [--json FILE] [--images 24]

`vae_alone` encodes the same number of images that are in memory already: what remains of it when files are read and
results kept is the share that the GPU, or on a CPU the VAE, is at work. `one_by_one` is the time of a picture that the
VAE gets alone, in that of one among a million pixels, in turns. With a GPU SD 1.5 at 512 and SDXL at 1024 pixels in
full size, else a tiny VAE.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from rich.console import Console as Rich
from rich.table import Table

from plugins.models.sd import StableDiffusion
from tests import full_size
from tests.benchmarks import cases
from tests.tiny import tiny_sd
from trainer.assembly.data import scan_data
from trainer.config import reading
from trainer.data.cache.disk_latents import DiskLatents, LatentRecipe
from trainer.data.cache.encode import together
from trainer.data.cache.memory import MemoryLatents
from trainer.journal.console import Console

ROUNDS = 3


def per_second(work: Callable[[], Any], images: int, device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return images / (time.perf_counter() - began)


@torch.no_grad()
def figures(family: Any, folder: Path, side: int, images: int, device: torch.device) -> dict[str, float]:
    file = cases.project(folder / "project", side, images)
    dataset = scan_data(reading.read(file), Console(quiet=True), family)
    at_once = min(4, together(side, side))
    ready = torch.rand(at_once, 3, side, side, device=device) * 2 - 1

    def alone() -> None:
        for _ in range(images // at_once):
            family.encode_posterior(ready)

    def together_in_turns() -> float:
        """Of the VAE itself: on a CPU the family parts what it is given."""
        many = ready[:1].repeat(together(side, side), 1, 1, 1)
        ratios = []
        for _ in range(ROUNDS):
            alone = per_second(lambda: [family.vae.encode(one) for one in many.split(1)], len(many), device)
            ratios.append(per_second(lambda: family.vae.encode(many), len(many), device) / alone)  # of times
        return statistics.median(ratios)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return family.encode_images(pixels.to(device))

    alone()
    vae = per_second(alone, images // at_once * at_once, device)
    memory = per_second(lambda: MemoryLatents.encode(dataset, encode), images, device)
    disk = DiskLatents(dataset, folder / "latents", LatentRecipe("benchmark"))
    return {
        "pixels": side,
        "vae_alone": vae,
        "into_memory": memory,
        "onto_disk": per_second(lambda: disk.fill(encode), images, device),
        "vae_at_work": memory / vae,
        "one_by_one": together_in_turns(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--images", type=int, default=24)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny = StableDiffusion.load(str(tiny_sd(folder / "base", vae_factor=8)))
        found["tiny_cpu"] = figures(tiny, folder / "tiny", 256, arguments.images, torch.device("cpu"))
        for version, side in (("sd1", 512), ("sdxl", 1024)) if torch.cuda.is_available() else ():
            family, device = full_size.make(version), torch.device("cuda")
            full_size.fill(family.vae, torch.device("cpu"), torch.float32)
            family.vae.to(device)
            found[version] = figures(family, folder / version, side, arguments.images, device)
    table = Table("case", "pixels", "VAE alone", "into memory", "onto disk", "VAE at work", "one by one")
    for name, row in found.items():
        speeds = (f"{row[key]:.1f}/s" for key in ("vae_alone", "into_memory", "onto_disk"))
        table.add_row(name, f"{row['pixels']}", *speeds, f"{row['vae_at_work']:.0%}", f"{row['one_by_one']:.2f}")
    Rich().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"environment": cases.environment(), **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
