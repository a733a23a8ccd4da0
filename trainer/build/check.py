"""The truth about a run's dataset, for `check`: everything that training would do with it, without training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer import prompts
from trainer.build.data import held_out_lines, split_of
from trainer.build.model import tokenizer_of
from trainer.build.pace import pace_of
from trainer.build.run import run_dir_of
from trainer.config import BaseConfig
from trainer.console import Console
from trainer.data.holdout import Split
from trainer.data.plan import Plan
from trainer.data.scan import scan
from trainer.errors import UserError
from trainer.loop import Pace
from trainer.reports import dataset_run, noise_warning
from trainer.reports.cutoff import Cutter, cutter, limit_of
from trainer.reports.dataset import to_json


def check(config: BaseConfig, console: Console) -> dict[str, Any]:
    """Writes dataset-report.html and .json into the run's folder and tells what they say; loads no weights.

    Returns the report for machines, of which "would_train" tells whether training would start. Raises UserError for
    what is wrong with whole subsets.
    """
    scanned = scan(config.datasets, config.general, config.data, config_dir=Path.cwd(), keep_going=True)
    split = split_of(config, scanned, scanned.rendering.cell)
    pace = pace_of(config, Plan(split.training, config.run.seed), 1)
    counts, uncounted = token_counter(config)
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
        estimate=["Memory and seconds of a step on this machine: python -m trainer check --preflight"],
    )
    return to_json(report)


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
