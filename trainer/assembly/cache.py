"""Fills the disk cache of a run ahead of it, for `cache`."""

from __future__ import annotations

from trainer.assembly import warm_start
from trainer.assembly.data import scan_data
from trainer.assembly.encoding import latents_of, texts_of
from trainer.assembly.model import open_to_train, resting_parts
from trainer.assembly.processes import accelerator_for
from trainer.config.schema.whole import BaseConfig
from trainer.data.order.loader import Loader
from trainer.data.order.plan import Plan
from trainer.device.placement import Placement
from trainer.errors import UserError
from trainer.journal.console import Console
from trainer.run.results import DTYPES


def fill(config: BaseConfig, console: Console) -> None:
    """Encodes every image and caption that the run can use and that is not on the disk yet, held-out ones too.

    Raises UserError when the config keeps nothing on the disk, or for images that cannot be encoded.
    """
    if not config.data.cache_to_disk:
        raise UserError("data.cache_to_disk: false; set it to true, so that there is a cache on the disk to fill.")
    accelerator = accelerator_for(config)
    family = open_to_train(config)
    warm_start.begun(warm_start.resolved(config), family)  # what acts on captions changes their states
    dataset = scan_data(config, console, family)
    placement = Placement(family, accelerator.device, DTYPES[config.training.precision], resting_parts(config, family))
    if config.data.cache_latents:
        latents_of(config, console, accelerator, placement, dataset)
    if config.data.cache_text and not config.text_states_change:
        captions = Loader(dataset, Plan(dataset, config.run.seed), config.run.seed).possible_captions()
        texts_of(config, console, accelerator, placement, captions)
    console.say(f"{config.data.cache_dir}: complete for {len(dataset.items)} images")
