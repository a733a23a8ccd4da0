"""diffusers' samplers by kohya's names, over the noise schedule that the model was trained with."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import diffusers
import torch

from trainer.batch import NoiseSchedule
from trainer.errors import UserError

# kohya's name -> diffusers' class and its settings; the k_ names are the same samplers.
_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"set_alpha_to_one": False}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmsolver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmsingle": ("DPMSolverSinglestepScheduler", {}),
}
LEAST_SIGNAL = 2.0**-24  # alphas_cumprod where a schedule reaches zero: sigma stays finite (diffusers' own value)


def missing(name: str, others: Collection[str]) -> str:
    """The line about a sampler that a model has not, which has `others` beside the usual ones; "" for all else."""
    if name in others or name.removeprefix("k_") in _SAMPLERS:
        return ""
    return f"samples.sampler: this model has no sampler {name!r}; there are {', '.join(sorted({*_SAMPLERS, *others}))}."


def has_one_way(own: Any, schedule: NoiseSchedule) -> bool:
    """Whether a model is only drawn by its own sampler: a flow's straight paths take Euler steps."""
    return not hasattr(own, "alphas_cumprod") or schedule.alphas_cumprod is None


def named(
    name: str, own: Any, schedule: NoiseSchedule, others: Mapping[str, Callable[[], Any]] = MappingProxyType({})
) -> Any:
    """The sampler `name` for a model whose own sampler is `own`, a diffusers scheduler, and which has `others` too.

    Every usual sampler follows the model's schedule, with zero terminal SNR where it has that, the own one's prediction
    type, its spacing and its clipping, also those that know nothing of zero terminal SNR.
    """
    if problem := missing(name, others):
        raise UserError(problem)
    if name in others:
        return others[name]()
    if has_one_way(own, schedule):
        return own
    assert schedule.alphas_cumprod is not None
    config = dict(own.config)
    kind, settings = _SAMPLERS[name.removeprefix("k_")]
    made = getattr(diffusers, kind)
    if isinstance(own, made):
        return own
    known = inspect.signature(made.__init__).parameters
    wanted = {
        "num_train_timesteps": schedule.steps,
        "trained_betas": betas(schedule.alphas_cumprod),
        "prediction_type": config["prediction_type"],
        "timestep_spacing": config["timestep_spacing"],
        "steps_offset": config.get("steps_offset", 0),
        "clip_sample": config.get("clip_sample", False),
        **settings,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers would rather not have plain DPM-Solver asked for
        return made(**{key: value for key, value in wanted.items() if key in known})


def betas(alphas_cumprod: torch.Tensor) -> list[float]:
    """The betas that give this schedule: 1 - abar_t / abar_(t-1)."""
    exact = alphas_cumprod.detach().cpu().double().clamp(min=LEAST_SIGNAL)
    before = torch.cat([torch.ones(1, dtype=torch.float64), exact[:-1]])
    return [float(beta) for beta in 1 - exact / before]
