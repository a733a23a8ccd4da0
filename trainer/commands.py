"""What each command of the command line does."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from trainer import config_io, registry
from trainer.config_checks import notes
from trainer.console import Console
from trainer.quiet import quiet


def train(path: Path, overrides: Sequence[str], *, resume: bool) -> str:
    """Returns "done" or "stopped"."""
    config = config_io.read(path, overrides)
    build = _build()
    console = Console(quiet=int(os.environ.get("RANK", "0")) > 0)
    found = build.training(config, console, resume=resume)
    return "done" if found is None else found.run()


def check(path: Path, overrides: Sequence[str]) -> None:
    config = config_io.read(path, overrides)
    build = _build()
    console = Console()
    for line in [*notes(config), *build.summary(config)]:
        console.say(line)


def plugins() -> None:
    console = Console()
    for kind in ("models", "objectives", "noise"):
        console.say(f"{kind}:")
        for name in registry.names(kind):
            described = (registry.find(kind, name).__doc__ or "").strip().split("\n")[0]
            console.say(f"  {name:<14} {described}")


def schema() -> None:
    print(json.dumps(config_io.schema(), indent=2))


def demo(output: Path, *, compare: bool) -> None:
    # By name: the demo is a user of the trainer, not a part of it.
    importlib.import_module("demo.run").main(output, compare=compare)


def ui(folder: Path, **options: object) -> None:
    # By name: the core knows nothing of its user interface.
    importlib.import_module("ui.server").main(folder, **options)


def _build() -> ModuleType:
    """The composition root; what it imports takes seconds, so a config error is reported first."""
    quiet()
    return importlib.import_module("trainer.build")
