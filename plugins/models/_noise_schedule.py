"""The noise schedule of a base: its cumulative alphas, what it predicts, and the sampler that fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from plugins.models import _modules
from plugins.models._flow_sampler import FlowSampler
from trainer.errors import UserError

# diffusers' prediction_type -> the objective's name; the aliases are those of the objectives.
_OBJECTIVES = {"epsilon": "epsilon", "v_prediction": "velocity", "flow_prediction": "flow"}
_ALIASES = {"eps": "epsilon", "noise": "epsilon", "v": "velocity", "rectified_flow": "flow", **_OBJECTIVES}
_FLOW_CLASS = "FlowMatch"  # how diffusers' schedulers of flows begin


def objective(config: Mapping[str, Any], asked: str, where: str) -> str:
    """The objective's name: `asked`, or what the scheduler's config says when that is "auto"."""
    if asked != "auto":
        return _ALIASES.get(asked, asked)
    if str(config.get("_class_name", "")).startswith(_FLOW_CLASS):
        return "flow"
    stated = config.get("prediction_type", "epsilon")
    if stated not in _OBJECTIVES:
        raise UserError(f"{where}: prediction_type is {stated!r}; expected one of {', '.join(_OBJECTIVES)}")
    return _OBJECTIVES[stated]


def alphas_cumprod(config: Mapping[str, Any], where: str) -> Tensor:
    """(timesteps,) float32, with zero terminal SNR where the config asks for it."""
    return _modules.build(lambda: DDPMScheduler.from_config(dict(config)), where, empty=False).alphas_cumprod


def sampler(config: Mapping[str, Any], prediction: str, *, clip_sample: bool = False) -> Any:
    """A deterministic DDIM over the same schedule for the given objective; Euler steps for a flow. clip_sample: keeps
    estimates of the clean picture in [-1, 1].

    Zero terminal SNR needs the last timestep, which only trailing spacing visits (Lin et al. 2023, arXiv 2305.08891).
    """
    if prediction == "flow":
        return FlowSampler(num_train_timesteps=config.get("num_train_timesteps", 1000))
    types = {name: diffusers_name for diffusers_name, name in _OBJECTIVES.items()}
    spacing = "trailing" if config.get("rescale_betas_zero_snr") else config.get("timestep_spacing", "leading")
    return DDIMScheduler.from_config(
        dict(config),
        prediction_type=types[prediction],
        timestep_spacing=spacing,
        clip_sample=clip_sample,
        set_alpha_to_one=config.get("set_alpha_to_one", False),
    )


def class_name(prediction: str) -> str:
    """diffusers' class of the sampler, for model_index.json."""
    return "FlowMatchEulerDiscreteScheduler" if prediction == "flow" else "DDIMScheduler"


def of_class(name: str, scheduler: Any) -> Any:
    """The same schedule as another class of diffusers'."""
    import diffusers

    return getattr(diffusers, name).from_config(dict(scheduler.config))
