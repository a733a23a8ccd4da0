"""diffusers' samplers by kohya's names, over the noise schedule that the model was trained with."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import diffusers
import torch

# kohya's name -> diffusers' class and its settings; the k_ names are the same samplers.
_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {"clip_sample": False}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmsolver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmsingle": ("DPMSolverSinglestepScheduler", {}),
}
LEAST_SIGNAL = 2.0**-24  # alphas_cumprod where a schedule reaches zero: sigma stays finite (diffusers' own value)


def named(name: str, own: Any, alphas_cumprod: torch.Tensor) -> Any:
    """The sampler `name` for a model whose own sampler is `own`, a diffusers scheduler.

    alphas_cumprod: (timesteps,), of the model, with zero terminal SNR where it has that. Every sampler follows this
    schedule, the own one's prediction type and its spacing, also those that know nothing of zero terminal SNR.
    """
    config = dict(own.config)
    if not hasattr(own, "alphas_cumprod"):
        return own  # a flow: its straight paths have a sampler of their own
    kind, settings = _SAMPLERS[name.removeprefix("k_")]
    made = getattr(diffusers, kind)
    if isinstance(own, made):
        return own
    known = inspect.signature(made.__init__).parameters
    wanted = {
        "num_train_timesteps": len(alphas_cumprod),
        "trained_betas": betas(alphas_cumprod),
        "prediction_type": config["prediction_type"],
        "timestep_spacing": config["timestep_spacing"],
        "steps_offset": config.get("steps_offset", 0),
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
