"""The composition root: the one place that turns a whole config into objects."""

from trainer.build.data import scan_data, split_of
from trainer.build.model import objective_of, open_family
from trainer.build.noise import latents_to_measure
from trainer.build.processes import accelerator_for, leave
from trainer.build.run import Training, preflight, run_dir_of, train, training

__all__ = [
    "Training",
    "accelerator_for",
    "latents_to_measure",
    "leave",
    "objective_of",
    "open_family",
    "preflight",
    "run_dir_of",
    "scan_data",
    "split_of",
    "train",
    "training",
]
