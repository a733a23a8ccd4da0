"""The truth about a run's dataset, for `check`: everything that training would do with it, without training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.build.data import held_out_lines, split_of
from trainer.build.estimate import Estimate, estimate
from trainer.build.model import open_family, tokenizer_of
from trainer.build.needs import estimate_lines
from trainer.build.pace import pace_of
from trainer.build.run import run_dir_of
from trainer.config import BaseConfig
from trainer.console import Console, busy
from trainer.data.holdout import Split
from trainer.data.plan import Plan
from trainer.data.scan import scan
from trainer.errors import UserError
from trainer.loop import Pace
from trainer.parameters import ALWAYS, Group, Window
from trainer.reports import dataset_run, noise_warning, rates
from trainer.reports.cutoff import Cutter, cutter, limit_of
from trainer.reports.dataset import to_json
from trainer.reports.rates import Rate
from trainer.run.preflight import largest
from trainer.samples import prompts
from trainer.schedules import Shape


def check(config: BaseConfig, console: Console) -> dict[str, Any]:
    """Writes dataset-report.html and .json into the run's folder and tells what they say; loads no weights.

    Returns the report for machines, of which "would_train" tells whether training would start. Raises UserError for
    what is wrong with whole subsets.
    """
    scanned = scan(config.datasets, config.general, config.data, config_dir=Path.cwd(), keep_going=True)
    split = split_of(config, scanned, scanned.rendering.cell)
    pace = pace_of(config, Plan(split.training, config.run.seed), 1)
    counts, uncounted = token_counter(config)
    needs, unknown = _needs(config, split, console)
    run_dir = run_dir_of(config)
    report = dataset_run.check(
        replace(split.training, notes=(*split.training.notes, *_notes(config, split, pace, uncounted))),
        name=run_dir.name,
        folder=run_dir.path,
        seed=config.run.seed,
        steps=pace.steps,
        batches_per_step=pace.accumulation,
        console=console,
        cutter=counts,
        estimate=estimate_lines(needs, config, pace) if needs else [unknown],
        needs={"bytes": round(needs.total), "operations_per_step": needs.operations} if needs else None,
    )
    told = rates_of(config, pace.steps)
    for what, rate in told.items():
        name = "learning rate" if len(told) == 1 else f"learning rate of {what}"
        console.say(rates.line(name, rate, pace.steps))
    rates.write(told, pace.steps, run_dir.name, run_dir.path / "schedule.html")
    return to_json(report) | {
        "learning_rates": {what: [rate(step) for step in range(pace.steps)] for what, rate in told.items()}
    }


def rates_of(config: BaseConfig, steps: int) -> dict[str, Rate]:
    """How the learning rates will move, by what they are of, as far as the config alone tells."""
    shape, optimizer, training = Shape(**config.schedule.model_dump()), config.optimizer, config.training
    rate, other = optimizer.lr, optimizer.text_encoder_lr or optimizer.lr

    def of(rate: float, window: Window = ALWAYS) -> Rate:
        during = Group("", "", rate, [], window).steps(steps)
        return lambda step: rate * shape.factor(step, steps) if step in during else 0.0

    found: dict[str, Rate] = {}
    if training.text_encoder:
        found["text encoder"] = of(other, (0, training.text_encoder_until))
    for block in dict.fromkeys([*optimizer.rates, *optimizer.windows]):
        found[block] = of(optimizer.rates.get(block, rate), optimizer.windows.get(block, ALWAYS))
    if training.unet:
        found["others" if found else "all"] = of(rate)
    return found


def _needs(config: BaseConfig, split: Split, console: Console) -> tuple[Estimate | None, str]:
    """What the run needs, or why that is not known."""
    plan = Plan(split.training, config.run.seed)
    if not plan.batches_per_epoch:
        return None, "Memory and time are not estimated: there are no images."
    try:
        family = open_family(config, outline=True)
    except UserError as error:
        return None, f"Memory and time are not estimated: {error.problems[0]}"
    entries = plan.batch(largest(plan)).entries
    width, height = split.training.items[entries[0].item].target
    with busy("estimating memory"):
        return estimate(config, family, (len(entries), height, width)), ""


def _notes(config: BaseConfig, split: Split, pace: Pace, uncounted: list[str]) -> list[str]:
    pictures = prompts.requests(config.samples)
    return [
        *held_out_lines(config, split),
        *uncounted,
        *([f"{len(pictures)} samples each time"] if pictures else ()),
        *(
            line.removeprefix("note: ")
            for line in noise_warning.warnings_before_encoding(
                config.noise.stages(), split.training, accumulation=pace.accumulation
            )
        ),
    ]


def token_counter(config: BaseConfig) -> tuple[Cutter | None, list[str]]:
    """What counts tokens, or why nothing does."""
    try:
        tokenizer = tokenizer_of(config)
    except UserError as error:
        return None, [f"Tokens are not counted: {error.problems[0]}"]
    return cutter(tokenizer, limit_of(tokenizer, config.model.max_tokens)), []
