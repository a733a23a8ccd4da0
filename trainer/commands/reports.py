"""What the commands do that only tell something: noise, compare, plugins, schema."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import registry
from trainer.assembly import readiness
from trainer.commands.quiet import loading
from trainer.config import page as settings_page
from trainer.config import reading
from trainer.errors import UserError
from trainer.journal.console import Console
from trainer.journal.run_dir import RunDir

if TYPE_CHECKING:
    from trainer.validation.measurements import Measurements


def noise(path: Path, overrides: Sequence[str], *, images: int, keep: Path | None = None) -> None:
    """keep: a safetensors file for some of the latents that are measured."""
    config = reading.read(path, overrides)
    readiness.refuse(config, readiness.of_kind, readiness.of_material, readiness.of_pictures, readiness.of_results)
    with loading():
        from trainer.assembly.noise_report import report
    report(config, Console(), images=images, keep=keep)


def compare(first: Path, second: Path) -> None:
    for path in (first, second):
        if not RunDir(path).validation.is_dir():
            raise _unmeasured(path)
    with loading():
        from trainer.reports.learning import comparison
    found = [_measured(path) for path in (first, second)]
    compared = comparison.compare(*found)
    configs = [tomllib.loads(RunDir(path).config.read_text(encoding="utf-8")) for path in (first, second)]
    console = Console()
    names = [path.resolve().name for path in (first, second)]
    for line in [*comparison.settings(*configs), *comparison.lines(compared, *names)]:
        console.say(line)


def _measured(path: Path) -> Measurements:
    from trainer.validation import measurements

    found = measurements.read(RunDir(path).validation)
    if found is None:
        raise _unmeasured(path)
    return found


def _unmeasured(path: Path) -> UserError:
    return UserError(
        f"{path}: no run with a validation. Expected the folder of a run whose config has validation.split or "
        "[[validation.datasets]]."
    )


def plugins() -> None:
    console = Console()
    for kind in ("models", "objectives", "noise"):
        console.say(f"{kind}:")
        for name in registry.names(kind):
            described = (registry.find(kind, name).__doc__ or "").strip().split("\n")[0]
            console.say(f"  {name:<14} {described}")


def schema(*, markdown: bool = False) -> None:
    print(settings_page.markdown() if markdown else json.dumps(reading.schema(), indent=2))
