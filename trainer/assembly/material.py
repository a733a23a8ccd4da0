"""The model and the data of a run, found and encoded, before anything of it learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from accelerate import Accelerator

from trainer.assembly import embeddings, warm_start
from trainer.assembly import prompts as by_prompts
from trainer.assembly.data import ahead, held_out_lines, make_loader, questions_of, scan_data, split_of
from trainer.assembly.model import hold_small, open_to_train, prepare_parts, resting_parts, unfit
from trainer.assembly.pace import pace_of
from trainer.assembly.processes import accelerator_for
from trainer.batch import AdapterWeights, Batch
from trainer.config.schema.whole import BaseConfig
from trainer.data.dataset import NO_IMAGES, Dataset
from trainer.data.order.holdout import Split
from trainer.data.order.loader import Loader
from trainer.data.order.plan import Plan
from trainer.data.order.source import Source
from trainer.device.placement import Placement
from trainer.errors import UserError
from trainer.journal.console import Console
from trainer.protocols import Family
from trainer.run.preflight import indices_of
from trainer.run.results import DTYPES
from trainer.samples import drawing, prompts
from trainer.samples.prompts import Request
from trainer.training.pace import Pace
from trainer.validation.questions import ValidationSet


@dataclass(frozen=True)
class Material:
    accelerator: Accelerator
    family: Family
    placement: Placement
    rates: Mapping[str, float]  # the learning rate of each part that trains
    dataset: Dataset  # the images that train; none where prompts teach alone
    pace: Pace
    source: Source
    batch: Callable[[int], Batch]  # the source's, perhaps made ahead
    questions: ValidationSet | None  # what is measured on held-out images
    wanted: Sequence[Request]  # samples
    waiting: Mapping[str, AdapterWeights]  # of the file that the run goes on from: saved beside what trains


@dataclass(frozen=True)
class _Lessons:
    """What teaches, and how long."""

    dataset: Dataset
    pace: Pace
    source: Source
    batch: Callable[[int], Batch]
    questions: ValidationSet | None = None


def material_of(
    config: BaseConfig, console: Console, *, trial: bool, opened: Callable[[BaseConfig], Family] = open_to_train
) -> Material:
    """trial: for a preflight alone, without any caching; opened: gives the base. Raises UserError."""
    wanted = prompts.requests(config.samples)
    accelerator = accelerator_for(config)
    family = opened(config)
    if problems := unfit(config, family):
        raise UserError(problems)
    drawing.refuse(family, wanted)
    taught = embeddings.teach(config, family)
    start = warm_start.begun(config, family)
    for line in (*family.notes, *(start.notes if start else ()), *drawing.notes(family, wanted)):
        console.say(f"note: {line}")
    split = None if config.slider.asked else _found(config, console, family)
    for line in (*taught, *embeddings.lines(config, family, split.training if split else NO_IMAGES)):
        console.say(line)
    for line in held_out_lines(config, split) if split else ():
        console.say(line)
    hold_small(config, family, accelerator.device)
    rates = prepare_parts(config, family, start)
    resting = resting_parts(config, family)
    placement = Placement(family, accelerator.device, DTYPES[config.training.precision], resting)
    lessons = (
        _of_prompts(config, console, accelerator, placement)
        if split is None
        else _of_images(config, console, accelerator, placement, split, trial=trial)
    )
    placement.settle()
    if config.training.method == "lora" and not wanted and not trial:
        placement.release()  # a full fine-tune is saved with its text encoders and VAE
    waiting = start.waiting if start else {}
    return Material(
        accelerator,
        family,
        placement,
        rates,
        lessons.dataset,
        lessons.pace,
        lessons.source,
        lessons.batch,
        lessons.questions,
        wanted,
        waiting,
    )


def _found(config: BaseConfig, console: Console, family: Family) -> Split:
    return split_of(config, scan_data(config, console, family))


def _of_images(
    config: BaseConfig, console: Console, accelerator: Accelerator, placement: Placement, split: Split, *, trial: bool
) -> _Lessons:
    plan = Plan(split.training, config.run.seed)
    pace = pace_of(config, plan.batches_per_epoch, accelerator.num_processes)
    loader = make_loader(config, console, accelerator, placement, plan, pace, on_demand=trial)
    if trial:
        return _Lessons(split.training, pace, loader, _encoded(loader, plan, pace, accelerator, placement))
    questions = questions_of(config, accelerator, placement, split)
    return _Lessons(split.training, pace, loader, ahead(config, loader, accelerator), questions)


def _of_prompts(config: BaseConfig, console: Console, accelerator: Accelerator, placement: Placement) -> _Lessons:
    source = by_prompts.source_of(config, console, accelerator, placement)
    pace = pace_of(config, source.plan.batches_per_epoch, accelerator.num_processes)
    return _Lessons(NO_IMAGES, pace, source, source.batch)


def _encoded(
    loader: Loader, plan: Plan, pace: Pace, accelerator: Accelerator, placement: Placement
) -> Callable[[int], Batch]:
    """The batches of the step that a preflight takes, ready as the caches of a run would give them."""
    indices = indices_of(plan.largest(), pace.accumulation, accelerator.num_processes, accelerator.process_index)
    with placement.held():
        ready = {index: loader.batch(index) for index in indices}
    return ready.__getitem__
