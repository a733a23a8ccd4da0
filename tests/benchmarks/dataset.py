"""How long `check` takes for many small images, and how much memory the index of a large dataset needs.

    python tests/benchmarks/dataset.py [--json FILE] [--images N] [--index N]

The images of the index are links to a few files: only their names, sizes and captions are held.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SIDE = 96  # pixels of a small image
TAGS = 200  # different ones in the captions
TABLES = """
[model]
base = "nowhere"
[general]
enable_bucket = true
min_bucket_reso = 64
max_bucket_reso = 192
bucket_reso_steps = 16
[[datasets]]
resolution = 96
batch_size = 4
[[datasets.subsets]]
image_dir = "images"
caption_extension = ".txt"
shuffle_caption = true
"""


def make(folder: Path, images: int, *, links: int = 0) -> Path:
    """A config and `images` captioned pictures of several shapes; with `links`, all but so many are links to these."""
    (folder / "images").mkdir(parents=True)
    chance = np.random.default_rng(0)
    for n in range(images):
        path = folder / f"images/{n:06d}.png"
        if links and n >= links:
            os.link(folder / f"images/{n % links:06d}.png", path)
        else:
            width, height = chance.integers(64, 160, 2)
            noise = chance.integers(0, 256, (int(height) // 8, int(width) // 8, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((int(width), int(height))).save(path, compress_level=1)
        tags = ", ".join(f"tag {t}" for t in chance.integers(0, TAGS, 12))
        path.with_suffix(".txt").write_text(f"{tags}, picture {n}")
    config = folder / "run.toml"
    config.write_text(TABLES)
    return config


def check_seconds(images: int) -> float:
    """Wall time of the command, the start of Python included."""
    with tempfile.TemporaryDirectory() as folder:
        config = make(Path(folder), images)
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "trainer", "check", str(config), "--json"],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        return time.perf_counter() - began


INDEX = """
import resource, sys, time
from pathlib import Path
from trainer import config_io
from trainer.data.plan import Plan
from trainer.data.loader import Loader
from trainer.data.scan import scan
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, began = peak(), time.perf_counter()
read = config_io.read(Path(sys.argv[1]))
found = scan(read.datasets, read.general, read.data, config_dir=Path.cwd())
plan = Plan(found, 0)
loader = Loader(found, plan, 0)
first = [plan.batch(index) for index in (0, plan.batches_per_epoch, 2 * plan.batches_per_epoch)]
print(len(found.items), before, peak(), time.perf_counter() - began)
"""


def index(images: int) -> tuple[int, int, float]:
    """Bytes that a process holds before and at most while it scans and plans, and the seconds of that."""
    with tempfile.TemporaryDirectory() as folder:
        config = make(Path(folder), images, links=100)
        told = subprocess.run(
            [sys.executable, "-c", INDEX, str(config)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
    assert int(told[0]) == images
    return int(told[1]), int(told[2]), float(told[3])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--index", type=int, default=100_000)
    asked = parser.parse_args()
    seconds = check_seconds(asked.images)
    before, most, scanning = index(asked.index)
    mb = 2**20
    print(f"check of {asked.images:,} images of about {SIDE} pixels: {seconds:.1f} s, the start included")
    print(
        f"index of {asked.index:,} images: {scanning:.1f} s, {(most - before) / mb:.0f} MB beyond "
        f"the {before / mb:.0f} MB of the libraries ({(most - before) / asked.index / 1024:.1f} KB an image)"
    )
    if asked.json:
        content = {
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "check": {"images": asked.images, "seconds": seconds},
            "index": {"images": asked.index, "seconds": scanning, "bytes": most - before, "libraries": before},
        }
        asked.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
