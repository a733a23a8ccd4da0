"""What each command of the command line does."""

from __future__ import annotations

import importlib
import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from trainer import config_io, registry, settings_page
from trainer.config_checks import notes
from trainer.console import Console, busy
from trainer.errors import UserError
from trainer.measuring import measurements
from trainer.quiet import quiet
from trainer.run_dir import RunDir

KEPT = 4  # latents that `noise` keeps for pictures


def train(path: Path, overrides: Sequence[str], *, resume: bool, given: Path | None = None) -> str:
    """Returns "done" or "stopped". given: the checkpoint to resume from, if not the newest."""
    config = config_io.read(path, overrides)
    build = _build()
    console = Console(quiet=int(os.environ.get("RANK", "0")) > 0)
    outcome: str = build.train(config, console, resume=resume, given=given)
    return outcome


def check(path: Path, overrides: Sequence[str], *, preflight: bool = False, as_json: bool = False) -> None:
    """as_json: prints the report for machines and nothing else. Raises UserError when training would not start."""
    config = config_io.read(path, overrides)
    build = _build()
    console = Console(quiet=as_json)
    if preflight:
        for line in build.preflight(config, console):
            console.say(line)
        return
    for line in notes(config):
        console.say(line)
    report = importlib.import_module("trainer.build.check").check(config, console)
    if as_json:
        print(json.dumps(report, indent=2))
    if not report["would_train"]:
        raise UserError(f"{p['file']}: {p['what']}" for p in report["problems"] if p["stops"])


def leave() -> None:
    """The last thing that one of several processes does."""
    importlib.import_module("trainer.build").leave()


def cache(path: Path, overrides: Sequence[str]) -> None:
    config = config_io.read(path, overrides)
    _build()
    importlib.import_module("trainer.build.cache").fill(config, Console(quiet=int(os.environ.get("RANK", "0")) > 0))


def noise(path: Path, overrides: Sequence[str], *, images: int, keep: Path | None = None) -> None:
    """keep: a safetensors file for some of the latents that are measured."""
    config = config_io.read(path, overrides)
    build = _build()
    noise_run = importlib.import_module("trainer.reports.noise_run")
    console = Console()
    accelerator, family = build.accelerator_for(config), build.open_family(config)
    objective = build.objective_of(config, family)
    found = build.split_of(config, build.scan_data(config, console, family), family.latent_factor).training
    sample = noise_run.sample(found, images, config.run.seed)
    asked = noise_run.Asked(
        objective=objective,
        objective_name=objective.diffusers_name,
        timesteps=len(family.alphas_cumprod),
        stages=config.noise.stages(),
        batch_size=max(found.batch_size(found.items[index]) for index in sample.items),
        accumulation=config.training.gradient_accumulation * accelerator.num_processes,
        sizes=sample.sizes,
        seed=config.run.seed,
    )
    latents = build.latents_to_measure(config, console, accelerator, family, sample)
    if keep is not None:
        some = latents.x[:KEPT].unflatten(1, latents.shape).cpu().contiguous()
        importlib.import_module("safetensors.torch").save_file({"latents": some}, keep)
    noise_run.write_and_tell(latents, asked, build.run_dir_of(config), console)


def compare(first: Path, second: Path) -> None:
    comparison = importlib.import_module("trainer.reports.comparison")  # what it imports takes a second
    found = [_measured(path) for path in (first, second)]
    compared = comparison.compare(*found)
    configs = [tomllib.loads(RunDir(path).config.read_text(encoding="utf-8")) for path in (first, second)]
    console = Console()
    names = [path.resolve().name for path in (first, second)]
    for line in [*comparison.settings(*configs), *comparison.lines(compared, *names)]:
        console.say(line)


def _measured(path: Path) -> measurements.Measurements:
    found = measurements.read(RunDir(path).validation)
    if found is None:
        raise UserError(
            f"{path}: no run with a validation. Expected the folder of a run whose config has validation.split or "
            "[[validation.datasets]]."
        )
    return found


def plugins() -> None:
    console = Console()
    for kind in ("models", "objectives", "noise"):
        console.say(f"{kind}:")
        for name in registry.names(kind):
            described = (registry.find(kind, name).__doc__ or "").strip().split("\n")[0]
            console.say(f"  {name:<14} {described}")


def schema(*, markdown: bool = False) -> None:
    print(settings_page.markdown() if markdown else json.dumps(config_io.schema(), indent=2))


def demo(output: Path, *, compare: bool) -> None:
    # By name: the demo is a user of the trainer, not a part of it.
    importlib.import_module("demo.run").main(output, compare=compare)


def ui(folder: Path, **options: object) -> None:
    # By name: the core knows nothing of its user interface.
    importlib.import_module("ui.server").main(folder, **options)


def _build() -> ModuleType:
    """The composition root; what it imports takes seconds, so a config error is reported first."""
    quiet()
    with busy("loading libraries"):
        return importlib.import_module("trainer.build")
