"""Trains and measures what is missing of a study; any number of these may do so at once, and may be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from studies.plan import Cell, Measure, Plan
from trainer.errors import UserError

ROOT = Path(__file__).parents[1]
Say = Callable[[str], object]
Command = Callable[[Sequence[str], Path], int]  # of the product, in a folder; gives the exit code


def command(words: Sequence[str], folder: Path) -> int:
    """One command of the product, in a process of its own."""
    own = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-P", "-m", "trainer", *words], cwd=folder, env=own).returncode


def complete(plan: Plan, say: Say, run: Command = command) -> list[Cell]:
    """Goes through all cells once, and does what is missing of those that nobody else is at; gives those."""
    return [cell for cell in plan.cells if not _done_here(plan, cell, say, run)]


def _done_here(plan: Plan, cell: Cell, say: Say, run: Command) -> bool:
    """False where another process is at it. Raises UserError when it fails."""
    plan.output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.output / f"{cell.name}.lock", timeout=0):
            if not finished(plan, cell):
                say(f"{cell.arm}, seed {cell.seed}: trains")
                _must(run(train_words(plan, cell), plan.config.parent), cell)
            for name, measure in plan.study.measures.items():
                if number(plan, cell, name) is None:
                    say(f"{cell.arm}, seed {cell.seed}: {measure.title}")
                    _measure(plan, cell, name, measure, run)
    except Timeout:
        return False
    return True


def train_words(plan: Plan, cell: Cell) -> list[str]:
    """A run that was begun goes on from its last checkpoint."""
    begun = (folder(plan, cell) / "config.toml").is_file()
    return ["train", str(plan.config), *_overrides(cell), *(["--resume"] if begun else [])]


def _overrides(cell: Cell) -> Iterator[str]:
    for key, value in cell.settings.items():
        yield from ("--set", f"{key}={json.dumps(value)}")


def folder(plan: Plan, cell: Cell) -> Path:
    return plan.output / cell.name


def finished(plan: Plan, cell: Cell) -> bool:
    stops = [event for event in _events(folder(plan, cell)) if event.get("event") in ("start", "stop")]
    return bool(stops) and stops[-1].get("reason") == "done"


def _measure(plan: Plan, cell: Cell, name: str, measure: Measure, run: Command) -> None:
    given = {"config": str(plan.config), "run": str(folder(plan, cell)), "name": cell.name, "seed": str(cell.seed)}
    for words in measure.run:
        _must(run([_filled(word, given) for word in words], plan.config.parent), cell)
    found = _read(_filled(measure.read, given)) if measure.read else _held_out(folder(plan, cell))
    if found is None:
        raise UserError(f"measures.{name}: the run {cell.name} has no such number ({measure.read or 'held-out loss'}).")
    file = _file(plan, cell)
    kept = {**_numbers(file), name: found}
    file.write_text(json.dumps(kept, indent=1), encoding="utf-8")


def number(plan: Plan, cell: Cell, name: str) -> float | None:
    """What was measured; None where it was not yet."""
    return _numbers(_file(plan, cell)).get(name)


def _file(plan: Plan, cell: Cell) -> Path:
    return plan.output / f"{cell.name}.json"


def _numbers(file: Path) -> dict[str, float]:
    try:
        found: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _filled(text: str, given: dict[str, str]) -> str:
    for name, value in given.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _read(place: str) -> float | None:
    """A number in a JSON file: FILE:path.to.it"""
    file, _, path = place.rpartition(":")
    try:
        found: Any = json.loads(Path(file).read_text(encoding="utf-8"))
        for part in path.split("."):
            found = found[int(part)] if isinstance(found, list) else found[part]
        return float(found)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _held_out(run: Path) -> float | None:
    losses = [event["loss"] for event in _events(run) if event.get("event") == "validation"]
    return float(losses[-1]) if losses else None


def _events(run: Path) -> Iterator[dict[str, Any]]:
    """What a run told; a line that was cut off is passed over."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _must(code: int, cell: Cell) -> None:
    if code:
        raise UserError(f"{cell.name}: the command ended with exit code {code}; what it said stands above.")
