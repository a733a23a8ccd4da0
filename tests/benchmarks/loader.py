"""Measures how fast a warm cache gives batches, next to reading the same tensors with plain safetensors.

python tests/benchmarks/loader.py [--json FILE] [--images N]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from trainer.batch import TextStates
from trainer.config.schema.data import DatasetSettings, DataSettings, GeneralSettings, SubsetSettings
from trainer.data.cache.disk_latents import DiskLatents, LatentRecipe
from trainer.data.cache.encode import Sampling
from trainer.data.cache.memory import MemoryLatents, TextCache
from trainer.data.dataset import Dataset
from trainer.data.order.loader import Loader
from trainer.data.order.plan import Plan
from trainer.data.order.prefetch import Prefetch
from trainer.data.sources.scan import scan

SHAPES = {"SD 512": (512, 768), "SDXL 1024": (1024, 2048)}  # side in pixels, width of the text states
BATCH = 4
SECONDS = 1.0  # each figure is the best of three runs of this length


def dataset(folder: Path, images: int, side: int) -> Dataset:
    """Tiny picture files that stand for large ones: only their cached latents are read here."""
    folder.mkdir()
    picture = Image.new("RGB", (8, 8))
    for n in range(images):
        picture.putpixel((0, 0), (n % 256, n // 256, 0))
        picture.save(folder / f"{n:05d}.png")
        (folder / f"{n:05d}.txt").write_text(f"a photo, number {n}, of something, somewhere")
    subset = SubsetSettings(image_dir=str(folder), shuffle_caption=False)
    table = DatasetSettings(resolution=side, batch_size=BATCH, subsets=[subset])
    return scan([table], GeneralSettings(), DataSettings(), config_dir=folder)


def encoder(sampling: Sampling) -> Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]:
    def encode(pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        count, _, height, width = pixels.shape
        mean = torch.randn(count, 4, height // 8, width // 8)
        return (mean, mean.abs()) if sampling == "fresh" else mean

    return encode


def per_second(read: Callable[[int], int]) -> float:
    """Samples a second of `read(n)`, which reads batch n and says how many samples it held."""
    best = 0.0
    for _ in range(3):
        count, batches, start = 0, 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < SECONDS:
            count += read(batches)
            batches += 1
        best = max(best, count / passed)
    return best


def ratio(one: Callable[[int], int], other: Callable[[int], int], rounds: int = 100) -> float:
    """How many times faster `one` is. Both take turns in short rounds, of which the fastest count."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for number in range(rounds):
        for which, read in enumerate((one, other)):
            start = time.perf_counter()
            for batch in range(50):
                read(50 * number + batch)
            times[which].append(time.perf_counter() - start)
    return min(times[1]) / min(times[0])


def plain(folder: Path) -> Callable[[int], int]:
    """Reading with safetensors alone: open files, one tensor after the other, stacked to batches."""
    files = [safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
    keys = [(file, key) for file in files for key in file.keys()]  # noqa: SIM118  (not a dict)
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(0)).tolist()

    def read(number: int) -> int:
        chosen = [keys[order[(number * BATCH + i) % len(order)]] for i in range(BATCH)]
        return len(torch.stack([file.get_tensor(key) for file, key in chosen]))

    return read


def measure(name: str, images: int, workspace: Path) -> dict[str, Any]:
    side, width = SHAPES[name]
    small = dataset(workspace / f"images{side}", images, side)
    large = replace(small, items=tuple(small.items))
    figures: dict[str, Any] = {"latents": [4, side // 8, side // 8], "images": images, "batch": BATCH}
    folder = workspace / f"cache{side}"
    disk = DiskLatents(large, folder, LatentRecipe("none"))
    disk.fill(encoder("mean"))
    figures["plain_safetensors"] = per_second(plain(folder))
    plan = Plan(large, 0)
    state = TextStates({"hidden": torch.randn(1, 77, width), "pooled": torch.randn(1, 1280)})
    texts = TextCache(lambda captions: TextStates.cat([state] * len(captions)))
    texts.prepare(Loader(large, plan, 0).possible_captions())
    fresh = DiskLatents(large, workspace / f"fresh{side}", LatentRecipe("none", "fresh"))
    fresh.fill(encoder("fresh"))
    memory = MemoryLatents.encode(large, encoder("mean"))
    loaders = {
        "disk": Loader(large, plan, 0, latents=disk),
        "disk_and_text": Loader(large, plan, 0, latents=disk, texts=texts),
        "disk_fresh_samples": Loader(large, plan, 0, latents=fresh),
        "memory": Loader(large, plan, 0, latents=memory),
    }
    for kind, loader in loaders.items():
        figures[kind] = per_second(lambda n, loader=loader: len(loader.batch(n)))
        with Prefetch(loader, workers=2) as ahead:
            figures[f"{kind}_prefetched"] = per_second(lambda n, ahead=ahead: len(ahead.batch(n)))
            figures[f"{kind}_wait_ms"] = wait(ahead, plan.batches_per_epoch)
    figures["ratio_to_plain"] = ratio(lambda n: len(loaders["disk"].batch(n)), plain(folder))
    return figures


def wait(ahead: Prefetch, batches: int, step: float = 0.05) -> float:
    """Milliseconds that a step of 50 ms waits for its batch, on average."""
    waited = 0.0
    ahead.batch(0)
    for n in range(1, 21):
        time.sleep(step)
        start = time.perf_counter()
        ahead.batch(n % batches)
        waited += time.perf_counter() - start
    return waited / 20 * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    with tempfile.TemporaryDirectory() as workspace:
        for name in SHAPES:
            results[name] = figures = measure(name, options.images, Path(workspace))
            print(f"{name}, latents {figures['latents']}, batches of {BATCH}: samples a second")
            for key, value in figures.items():
                if isinstance(value, float):
                    print(f"  {key:<32}{value:>12,.2f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
