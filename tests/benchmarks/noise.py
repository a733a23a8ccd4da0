"""Time and peak memory of plain, lazily oversampled, eagerly oversampled and naively oversampled noise.

    python tests/benchmarks/noise.py [--json FILE] [--quick]

CPU, and CUDA where there is one. Ratios are to `torch.randn` of the same shape. Memory is what torch's allocator held
at most beyond what it held before: the allocator's own count on CUDA, the profiler's allocation events on the CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugins.noise.oversampling import nearest_of

SHAPES = ((4, 64, 64), (4, 128, 128))
BATCHES = (1, 2, 4)
CANDIDATES = (4, 16, 64, 256, 1024)
LARGEST_NAIVE = 6 * 2**30  # bytes; larger ones are left out


@dataclass(frozen=True)
class Row:
    device: str
    shape: tuple[int, ...]
    way: str
    k: int
    milliseconds: float
    ratio: float  # to torch.randn
    peak_bytes: int


def naive(latents: Tensor, k: int, generator: Generator) -> Tensor:
    """All candidates in one tensor, their distances from the differences, the nearest kept."""
    batch, *rest = latents.shape
    candidates = torch.randn((batch, k, *rest), generator=generator, device=latents.device)
    far = torch.linalg.vector_norm((candidates - latents[:, None]).flatten(2), dim=2)
    return candidates[torch.arange(batch, device=latents.device), far.argmin(dim=1)]


def milliseconds(draw: Callable[[], Tensor], device: str, least: float) -> float:
    """Median time of a call over at least `least` seconds and 5 calls; on CUDA the device has finished."""

    def once() -> float:
        start = time.perf_counter()
        draw()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    times: list[float] = []
    while len(times) < 5 or (sum(times) < least and len(times) < 2000):
        times.append(once())
    return 1000 * statistics.median(times)


def peak_bytes(draw: Callable[[], Tensor], device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = draw()
        torch.cuda.synchronize()
        del result
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = draw()
    del result
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    held = most = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most


def measure(device: str, least: float) -> list[Row]:
    found = []
    for shape in [(batch, *rest) for rest in SHAPES for batch in BATCHES]:
        generator = Generator(device).manual_seed(1)
        latents = torch.randn(shape, device=device)

        def plain(shape: tuple[int, ...] = shape, generator: Generator = generator) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        base = milliseconds(plain, device, least)
        found.append(Row(device, shape, "plain", 1, base, 1.0, peak_bytes(plain, device)))
        for k in CANDIDATES:
            ways: dict[str, Callable[[], Tensor]] = {
                "lazy": lambda k=k, x=latents, g=generator: nearest_of(x, k, generator=g),
                "eager": lambda k=k, x=latents, g=generator: nearest_of(x, k, generator=g, candidates="eager"),
            }
            if 2 * 4 * k * latents.numel() <= LARGEST_NAIVE:
                ways["naive"] = lambda k=k, x=latents, g=generator: naive(x, k, g)
            for way, draw in ways.items():
                took = milliseconds(draw, device, least)
                found.append(Row(device, shape, way, k, took, took / base, peak_bytes(draw, device)))
    return found


def show(rows: list[Row], console: Console) -> None:
    for device, shape in dict.fromkeys((r.device, r.shape) for r in rows):
        here = {(r.way, r.k): r for r in rows if (r.device, r.shape) == (device, shape)}
        plain = here["plain", 1]
        table = Table(
            title=f"{device}, latents {'x'.join(map(str, shape))}: torch.randn {plain.milliseconds:.3f} ms, "
            f"{plain.peak_bytes / 2**20:.2f} MiB"
        )
        table.add_column("k", justify="right")
        for way in ("lazy", "eager", "naive"):
            table.add_column(f"{way} ms", justify="right")
            table.add_column("x randn", justify="right")
            table.add_column("MiB", justify="right")
        table.add_column("naive / lazy", justify="right")
        for k in sorted({k for way, k in here if way == "lazy"}):
            cells = [str(k)]
            for way in ("lazy", "eager", "naive"):
                row = here.get((way, k))
                cells += (
                    [f"{row.milliseconds:.3f}", f"{row.ratio:.2f}", f"{row.peak_bytes / 2**20:.2f}"]
                    if row
                    else ["-", "-", "too large"]
                )
            both = ("naive", k) in here
            cells.append(f"{here['naive', k].milliseconds / here['lazy', k].milliseconds:.0f}" if both else "-")
            table.add_row(*cells)
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    args = parser.parse_args()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    with torch.no_grad():
        rows = [row for device in devices for row in measure(device, 0.03 if args.quick else 0.3)]
    show(rows, Console(width=130))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
