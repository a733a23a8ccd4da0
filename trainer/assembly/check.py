"""The truth about a run's dataset, for `check`: everything that training would do with it, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.assembly import embeddings, layers, warm_start
from trainer.assembly.memory import MemoryEstimate, estimate
from trainer.assembly.model import open_family, unfit
from trainer.assembly.needs import estimate_lines
from trainer.assembly.noise import noise_warnings_before_encoding
from trainer.assembly.pace import pace_of
from trainer.assembly.prompts import lines as prompt_lines
from trainer.assembly.prompts import plan_of
from trainer.assembly.run import run_dir_of
from trainer.assembly.subject import Subject, subject_of, token_counter
from trainer.config.schema.whole import BaseConfig
from trainer.data.dataset import NO_IMAGES
from trainer.data.order.holdout import Split
from trainer.data.order.plan import Plan
from trainer.data.order.prompts import prompts_of
from trainer.errors import UserError
from trainer.journal.console import Console, busy
from trainer.optim.parameters import ALWAYS, Group, Window
from trainer.optim.schedules import Shape
from trainer.protocols import Family
from trainer.reports import rates
from trainer.reports.dataset import report as dataset_run
from trainer.reports.dataset.findings import to_json
from trainer.reports.rates import Rate
from trainer.samples import prompts


def check(config: BaseConfig, console: Console) -> dict[str, Any]:
    """Writes dataset-report.html and .json into the run's folder and tells what they say; loads no weights.

    Returns the report for machines, of which "would_train" tells whether training would start. Raises UserError for
    what is wrong with whole subsets.
    """
    config, refused = _resolved(config)
    family, problems = _outline(config)
    refused += problems
    if config.slider.asked:
        return _of_prompts(config, console, family, refused)
    try:
        with console.counting("reading images", "images") as counted:
            multiple, cell = (family.size_multiple, family.latent_factor) if family else (8, 0)
            subject = subject_of(
                config,
                config_dir=Path.cwd(),
                size_multiple=multiple,
                cell=cell,
                reads_captions=family is None or family.reads_captions,
                on_progress=counted,
            )
    except UserError as error:
        raise UserError([*refused, *error.problems]) from None
    pace = subject.pace
    needs = _needs(config, subject.split, family)
    run_dir = run_dir_of(config)
    report = dataset_run.check(
        replace(subject.training, notes=(*subject.notes, *_notes(config, subject, family))),
        name=run_dir.name,
        folder=run_dir.path,
        seed=config.run.seed,
        steps=pace.steps,
        batches_per_step=pace.accumulation,
        console=console,
        cutter=subject.cutter,
        token_limit=subject.token_limit,
        estimate=estimate_lines(needs, config, pace, subject.split, family.drawn if family else {})
        if needs
        else [_unknown(refused)],
        refused=refused,
        needs={"bytes": round(needs.total), "operations_per_step": needs.operations} if needs else None,
    )
    if needs and family and not config.lora.init_from:  # which has its own layers, and was not read for the estimate
        for line in layers.tell(config, family, run_dir.path):
            console.say(line)
    return to_json(report) | {"learning_rates": _told_rates(config, pace.steps, console)}


def _told_rates(config: BaseConfig, steps: int, console: Console) -> dict[str, list[float]]:
    """How the learning rates will move: told, drawn, and at every step by what they are of."""
    told, run_dir = rates_of(config, steps), run_dir_of(config)
    for what, rate in told.items():
        name = "learning rate" if len(told) == 1 else f"learning rate of {what}"
        console.say(rates.line(name, rate, steps))
    rates.write(told, steps, run_dir.name, run_dir.path / "schedule.html")
    return {what: [rate(step) for step in range(steps)] for what, rate in told.items()}


def _of_prompts(config: BaseConfig, console: Console, family: Family | None, refused: Sequence[str]) -> dict[str, Any]:
    """The truth about pairs of prompts: there is no dataset to report."""
    refused = [*refused]
    if family is not None:
        try:
            plan_of(config, family)
        except UserError as error:
            refused += error.problems
    pairs = config.slider.pairs
    pace = pace_of(config, len(pairs), 1)
    nothing, estimated, needs = Split(NO_IMAGES, NO_IMAGES), [_unknown(refused)], None
    if family is not None and not refused:
        with busy("estimating memory"):
            needs = estimate(config, family)
        estimated = estimate_lines(needs, config, pace, nothing, family.drawn)
    notes = [*prompt_lines(config), *_cut_off(config), *_samples_line(config)]
    for line in [*notes, *estimated, *refused]:
        console.say(line)
    console.say(f"training: {pace.steps:,} steps, {len(pairs)} pairs of prompts an epoch")
    return {
        "prompts": [pair.model_dump(mode="json") for pair in pairs],
        "steps": pace.steps,
        "steps_per_epoch": -(-len(pairs) // pace.accumulation),
        "problems": [_problem(line) for line in refused],
        "notes": notes,
        "estimate": estimated,
        "needs": {"bytes": round(needs.total), "operations_per_step": needs.operations} if needs else {},
        "would_train": not refused,
        "learning_rates": _told_rates(config, pace.steps, console),
    }


def _problem(line: str) -> dict[str, Any]:
    """Why training would not start, as the report of a dataset has it."""
    key, colon, what = line.partition(": ")
    return {"file": key if colon else "", "what": what if colon else line, "stops": True, "kind": ""}


def _cut_off(config: BaseConfig) -> list[str]:
    """Prompts whose end does not reach the base."""
    counts, limit, uncounted = token_counter(config)
    asked = sorted(prompts_of(config.slider.pairs))
    found = counts(asked) if counts else []
    cut = [prompt for prompt, told in zip(asked, found, strict=bool(found)) if told.kept < len(prompt)]
    return [*uncounted, *(f"slider: {prompt!r} is cut off after {limit} tokens (model.max_tokens)" for prompt in cut)]


def rates_of(config: BaseConfig, steps: int) -> dict[str, Rate]:
    """How the learning rates will move, by what they are of, as far as the config alone tells."""
    shape, optimizer, training = Shape(**config.schedule.model_dump()), config.optimizer, config.training
    rate = optimizer.lr

    def of(rate: float, window: Window = ALWAYS) -> Rate:
        during = Group("", "", rate, [], window).steps(steps)
        return lambda step: rate * shape.factor(step, steps) if step in during else 0.0

    found: dict[str, Rate] = {}
    if config.text_encoder_trains:
        found["text encoder"] = of(config.text_encoder_lr, (0, training.text_encoder_until or 0))
    for block in dict.fromkeys([*optimizer.rates, *optimizer.windows]):
        found[block] = of(optimizer.rates.get(block, rate), optimizer.windows.get(block, ALWAYS))
    if config.embeddings.words:
        found["embeddings"] = of(embeddings.rate(config), (0, config.embeddings.until or 0))
    if training.unet:
        found["others" if found else "all"] = of(rate)
    return found


def _resolved(config: BaseConfig) -> tuple[BaseConfig, list[str]]:
    """With what the file that the run goes on from tells, or why training would refuse that."""
    try:
        return warm_start.resolved(config), []
    except UserError as error:
        return config, error.problems


def _outline(config: BaseConfig) -> tuple[Family | None, list[str]]:
    """The base without its weights, and why training would refuse it or what it goes on from."""
    try:
        family = open_family(config, outline=True)
    except UserError as error:
        return None, error.problems
    try:
        embeddings.teach(config, family)
        warm_start.found(config, family)
    except UserError as error:
        return family, error.problems
    return family, unfit(config, family)


def _needs(config: BaseConfig, split: Split, family: Family | None) -> MemoryEstimate | None:
    """What the run needs; None without a base or images."""
    plan = Plan(split.training, config.run.seed)
    if family is None or not plan.batches_per_epoch:
        return None
    entries = plan.batch(plan.largest()).entries
    width, height = split.training.items[entries[0].item].target
    with busy("estimating memory"):
        return estimate(config, family, (len(entries), height, width))


def _unknown(refused: Sequence[str]) -> str:
    return f"Memory and time are not estimated: {refused[0] if refused else 'there are no images.'}"


def _notes(config: BaseConfig, subject: Subject, family: Family | None) -> list[str]:
    told = noise_warnings_before_encoding(config, family, subject.split.training, subject.pace) if family else []
    return [
        *_samples_line(config),
        *(line.removeprefix("note: ") for line in told),
        *embeddings.unseen(config, subject.split.training),
    ]


def _samples_line(config: BaseConfig) -> list[str]:
    pictures = prompts.requests(config.samples)
    return [f"{len(pictures)} samples each time"] if pictures else []
