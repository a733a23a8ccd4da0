"""The model and the data of a run, found and encoded, before anything of it learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from accelerate import Accelerator

from trainer.batch import Batch
from trainer.build.data import ahead, held_out_lines, make_loader, questions_of, scan_data, split_of
from trainer.build.model import hold_small, open_family, prepare_parts, resting_parts
from trainer.build.pace import pace_of
from trainer.build.processes import accelerator_for
from trainer.config import BaseConfig
from trainer.console import Console
from trainer.data.holdout import Split
from trainer.data.loader import Loader
from trainer.data.plan import Plan
from trainer.device.placement import Placement
from trainer.loop import Pace
from trainer.measuring.validation_set import ValidationSet
from trainer.protocols import Family
from trainer.run.preflight import indices_of, largest
from trainer.run.results import DTYPES
from trainer.samples import prompts
from trainer.samples.prompts import Request


@dataclass(frozen=True)
class Material:
    accelerator: Accelerator
    family: Family
    placement: Placement
    rates: Mapping[str, float]  # the learning rate of each part that trains
    split: Split
    plan: Plan
    pace: Pace
    loader: Loader
    batch: Callable[[int], Batch]
    questions: ValidationSet | None  # what is measured on held-out images
    wanted: Sequence[Request]  # samples


def material_of(config: BaseConfig, console: Console, *, trial: bool) -> Material:
    """trial: for a preflight alone, without any caching. Raises UserError."""
    wanted = prompts.requests(config.samples)
    accelerator = accelerator_for(config)
    family = open_family(config)
    for line in family.notes:
        console.say(f"note: {line}")
    split = split_of(config, scan_data(config, console, family), family.latent_factor)
    for line in held_out_lines(config, split):
        console.say(line)
    hold_small(config, family, accelerator.device)
    rates = prepare_parts(config, family)
    resting = resting_parts(config, family)
    placement = Placement(family, accelerator.device, DTYPES[config.training.precision], resting)
    plan = Plan(split.training, config.run.seed)
    pace = pace_of(config, plan, accelerator.num_processes)
    loader = make_loader(config, console, accelerator, placement, plan, pace, on_demand=trial)
    questions = None if trial else questions_of(config, accelerator, placement, split)
    batch = _encoded(loader, plan, pace, accelerator, placement) if trial else ahead(config, loader, accelerator)
    placement.settle()
    if config.training.method == "lora" and not wanted and not trial:
        placement.release()  # a full fine-tune is saved with its text encoders and VAE
    return Material(accelerator, family, placement, rates, split, plan, pace, loader, batch, questions, wanted)


def _encoded(
    loader: Loader, plan: Plan, pace: Pace, accelerator: Accelerator, placement: Placement
) -> Callable[[int], Batch]:
    """The batches of the step that a preflight takes, ready as the caches of a run would give them."""
    indices = indices_of(largest(plan), pace.accumulation, accelerator.num_processes, accelerator.process_index)
    with placement.held():
        ready = {index: loader.batch(index) for index in indices}
    return ready.__getitem__
