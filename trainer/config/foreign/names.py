"""What other trainers call our settings: for "did you mean", the page of settings and the UI's search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from trainer.config.foreign import diffusers_scripts, kohya_ss
from trainer.config.foreign.ai_toolkit.table import KEYS as AI_TOOLKIT
from trainer.config.foreign.keys import Table
from trainer.config.foreign.onetrainer.table import KEYS as ONETRAINER
from trainer.config.foreign.sd_scripts.table import KEYS as SD_SCRIPTS

PROGRAMS: dict[str, Table] = {
    "sd-scripts": SD_SCRIPTS,
    "OneTrainer": ONETRAINER,
    "ai-toolkit": AI_TOOLKIT,
    "diffusers": diffusers_scripts.KEYS,
}
# Words for settings that stand in forks, in papers and in programs whose files are not read.
WORDS = {
    "output_path": "run.output_dir",
    "force_zero_terminal_snr": "model.zero_terminal_snr",
    "num_steps": "training.steps",
    "stochastic_rounding": "training.weight_dtype",
    "clip_grad_value": "training.max_grad_value",
    "freeze_until": "optimizer.windows",
    "step_rules": "schedule.pieces",
    "timestep_sampling": "timesteps.distribution",
    "weighting_scheme": "timesteps.distribution",
    "logit_mean": "timesteps.mean",
    "logit_std": "timesteps.std",
    "sigmoid_scale": "timesteps.std",
    "discrete_flow_shift": "timesteps.shift",
    "immiscible_noise": "noise.assignment.pool",
    "linear_assignment": "noise.assignment.pool",
    "knn_noise_k": "noise.oversampling.k",
    "noise_oversampling": "noise.oversampling.k",
    "immiscible_diffusion": "noise.oversampling.k",
    "multires_noise": "noise.pyramid.iterations",
    "pyramid_noise": "noise.pyramid.iterations",
    "cache_directory": "data.cache_dir",
    "opt_channels_last": "performance.channels_last",
    "repeats": "general.num_repeats",
    "dop": "preservation.words",
    "prior_target": "general.prior_prediction",
    "masked_prior_preservation_weight": "preservation.outside_mask",
}


@dataclass(frozen=True)
class Counterpart:
    """Another program's key, and ours; without ours, why there is none."""

    program: str
    name: str
    ours: tuple[str, ...]
    why: str = ""


@cache
def counterparts() -> dict[str, Counterpart]:
    """By the other program's name, with and without the part that it belongs to. The first program counts."""
    found: dict[str, Counterpart] = {}
    for one in _all():
        found.setdefault(one.name, one)
    for one in _all():
        found.setdefault(one.name.rpartition(".")[2], one)
    return found


def _all() -> Iterator[Counterpart]:
    for program, table in PROGRAMS.items():
        for name, key in table.items():
            if not name.endswith("*"):
                yield Counterpart(program, name.replace("*.", ""), key.ours, key.note)
    for name, key_name in kohya_ss.NAMES.items():
        yield Counterpart("kohya_ss", name, SD_SCRIPTS[key_name].ours)
    yield from (Counterpart("other trainers", name, (ours,)) for name, ours in WORDS.items())


@cache
def elsewhere() -> dict[str, tuple[str, ...]]:
    """What each of our keys is called elsewhere, options of images by their name in [general]."""
    found: dict[str, dict[str, None]] = {}
    for one in _all():
        for ours in one.ours:
            if (name := one.name.rpartition(".")[2]) != ours.rpartition(".")[2]:
                found.setdefault(ours, {})[name] = None
    return {ours: tuple(names) for ours, names in found.items()}


_IMAGES = ("general.", "datasets[].", "datasets[].subsets[].")  # where an option of images may stand


def names_of(key: str) -> tuple[str, ...]:
    """Of one key of the schema, as trainer.config.keys writes it."""
    table, _, name = key.removeprefix("validation.").rpartition(".")
    options = [f"{place}{name}" for place in _IMAGES] if f"{table}." in _IMAGES else [key]
    return tuple(dict.fromkeys(other for option in options for other in elsewhere().get(option, ())))
