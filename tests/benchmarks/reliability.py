"""Kills a run at 25 named and 200 random moments and resumes it; fills a real disk; soaks.

    python tests/benchmarks/reliability.py [--json FILE] [--named N] [--random N] [--soak STEPS]

Each case must end with the bits of the uninterrupted run; the first that does not ends the program with an error.
Linux only. The real disk is a tmpfs, which only root can mount; without that it is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import psutil
import torch
from rich.console import Console
from rich.table import Table

from tests.reliability import kills, small
from tests.reliability.artefacts import same_state, state
from trainer.run import checkpoint

SIZES = (0, 4 << 10, 1 << 20)  # bytes that are free on the disk; and one byte less than needed


@dataclass
class Row:
    what: str
    cases: int
    outcome: str
    seconds: float


def named_moments(moments: list[tuple[str, str]]) -> list[int]:
    """The first and last moment of each kind of call on each kind of file, spread over all of them."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for at, (kind, name) in enumerate(moments, 1):
        plain = re.sub(r"\.partial-\w+-", "temporary ", re.sub(r"\d{2,}", "N", name))
        kinds.setdefault((kind, plain), []).append(at)
    return sorted({at for found in kinds.values() for at in (found[0], found[-1])})


def spread(values: list[int], count: int) -> list[int]:
    return [values[i * len(values) // count] for i in range(min(count, len(values)))]


def killed_at_names(project: Path, whole: kills.Whole, count: int) -> Row:
    began = time.monotonic()
    chosen = spread(named_moments(whole.moments), count)
    for at in chosen:
        kills.killed_and_resumed(project, whole, at, f"named-{at}")
    return Row("killed at named moments", len(chosen), "same bits", time.monotonic() - began)


def killed_at_random(project: Path, whole: kills.Whole, count: int) -> Row:
    began = time.monotonic()
    kills.resumed(project, whole, "timed")
    length = time.monotonic() - began
    luck, died = random.Random(0), 0
    for case in range(count):
        name = f"random-{case}"
        for _ in range(luck.choice([1, 1, 1, 2, 3])):
            died += kills.killed_after(project, name, luck.uniform(0.01, length)).signal == signal.SIGALRM
        kills.resumed(project, whole, name)
    return Row(f"killed at random times ({died} kills)", count, "same bits", time.monotonic() - began)


@contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """A file system of `size` bytes. Raises PermissionError where that is not permitted."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PermissionError(done.stderr.strip())
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def full_disks() -> Row:
    """Each size once as it is, and once as behind a quota, where the disk claims to have room."""
    began = time.monotonic()
    new, old = state(2, elements=200_000), state(1, elements=200)
    need = checkpoint.stage(new).size
    cases = [(free, claimed) for free in (*SIZES, need - 8192) for claimed in (None, 1 << 40)]
    try:
        for free, claimed in cases:
            with small_disk(4 * need) as disk:
                checkpoint.save(disk / "step-000001", old)
                (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - free))
                usage = shutil.disk_usage(disk)
                claim = usage if claimed is None else usage._replace(free=claimed)
                with mock.patch("shutil.disk_usage", return_value=claim):
                    _refused(disk / "step-000002", new)
                assert sorted(path.name for path in disk.iterdir()) == ["ballast", "step-000001"]
                assert same_state(checkpoint.load(disk / "step-000001"), old)
    except PermissionError as error:
        return Row("a real full disk", 0, f"left out: {error}", 0.0)
    return Row("a real full disk", len(cases), "old one intact, message", time.monotonic() - began)


def _refused(target: Path, new: checkpoint.State) -> None:
    try:
        checkpoint.save(target, new)
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        assert "needed, " in str(error), error
        assert "free in" in str(error), error
    else:
        raise AssertionError("it fitted")


def soak(project: Path, steps: int) -> Row:
    """Memory, open files and threads of a long run with many saves and samples."""
    began = time.monotonic()
    samples = f"samples={{prompts=['a cat'],width=16,height=16,steps=1,every={max(1, steps // 100)}}}"
    found = small.training(
        project, "run.name='soak'", f"training.steps={steps}", f"save.every={max(1, steps // 100)}", samples
    )
    process, real = psutil.Process(), found.loop.gradients.batch
    seen: list[tuple[int, int, int]] = []

    def batch(index: int) -> object:
        if index % max(1, steps // 20) == 0:
            seen.append((process.memory_info().rss, process.num_fds(), process.num_threads()))
        return real(index)

    found.loop.gradients.batch = batch  # type: ignore[assignment]
    found.run()
    half = seen[len(seen) // 2 :]
    growth = (half[-1][0] - half[0][0]) / 2**20 / max(1, steps / 2000)
    assert half[-1][1] <= half[0][1] + 2, seen
    assert half[-1][2] <= half[0][2] + 1, seen
    assert growth < 1.0, seen
    return Row(f"soak of {steps} steps", 1, f"{growth:+.2f} MB per 1,000 steps", time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--named", type=int, default=25)
    parser.add_argument("--random", type=int, default=200)
    parser.add_argument("--soak", type=int, default=20_000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = [full_disks()]
    with tempfile.TemporaryDirectory() as folder:
        project = small.make(Path(folder) / "a project")
        whole = kills.uninterrupted(project)
        rows.append(killed_at_names(project, whole, asked.named))
        rows.append(killed_at_random(project, whole, asked.random))
        if asked.soak:
            rows.append(soak(project, asked.soak))
    table = Table("what", "cases", "outcome", "seconds")
    for row in rows:
        table.add_row(row.what, str(row.cases), row.outcome, f"{row.seconds:.0f}")
    Console().print(table)
    if asked.json:
        content = {"torch": torch.__version__, "moments": len(whole.moments), "rows": [asdict(row) for row in rows]}
        asked.json.write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
