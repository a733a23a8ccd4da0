"""What the commands about a run do: train, check, cache."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from trainer.assembly import readiness
from trainer.commands.quiet import loading
from trainer.config import reading
from trainer.config.checks import notes
from trainer.errors import UserError
from trainer.journal.console import Console


def train(path: Path, overrides: Sequence[str], *, resume: bool, given: Path | None = None) -> str:
    """Returns "done" or "stopped". given: the checkpoint to resume from, if not the newest."""
    config = reading.read(path, overrides)
    readiness.refuse(config, readiness.of_material, readiness.of_pictures, readiness.of_results)
    with loading():
        from trainer.assembly import run
    return run.train(config, _console_of_one(), resume=resume, given=given)


def check(path: Path, overrides: Sequence[str], *, preflight: bool = False, as_json: bool = False) -> None:
    """as_json: prints the report for machines and nothing else. Raises UserError when training would not start."""
    config = reading.read(path, overrides)
    readiness.refuse(config, readiness.of_material, readiness.of_results)
    with loading():
        from trainer.assembly import check as checking
        from trainer.assembly import run
    console = Console(quiet=as_json)
    if preflight:
        for line in run.preflight(config, console):
            console.say(line)
        return
    for line in notes(config):
        console.say(line)
    report = checking.check(config, console)
    if as_json:
        print(json.dumps(report, indent=2))
    if not report["would_train"]:
        pictures = readiness.of_pictures(config)  # in the words of `train`
        stopping = [p for p in report["problems"] if p["stops"] and not (pictures and p["kind"])]
        raise UserError([*pictures, *(f"{p['file']}: {p['what']}" for p in stopping)])


def cache(path: Path, overrides: Sequence[str]) -> None:
    config = reading.read(path, overrides)
    readiness.refuse(config, readiness.of_kind, readiness.of_material, readiness.of_pictures, readiness.of_results)
    with loading():
        from trainer.assembly import cache as caching
    caching.fill(config, _console_of_one())


def leave() -> None:
    """The last thing that one of several processes does."""
    from trainer.assembly import processes

    processes.leave()


def _console_of_one() -> Console:
    """Of several processes only the first one talks."""
    return Console(quiet=int(os.environ.get("RANK", "0")) > 0)
