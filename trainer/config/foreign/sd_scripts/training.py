"""sd-scripts' precision, memory and loss keys that mean something together."""

from __future__ import annotations

from typing import Any

from trainer.config.foreign.outcome import Outcome, carried, changed, missing, unneeded
from trainer.config.foreign.sd_scripts.network import method
from trainer.config.foreign.sd_scripts.rates import is_lora
from trainer.config.foreign.values import Values

PRECISIONS = {"no": "fp32", "float": "fp32", "none": "fp32"}


def whole_precision(values: Values, name: str) -> Outcome:
    """full_fp16, full_bf16: what trains is kept in half precision too."""
    if not values.flag(name):
        return unneeded("off")
    if is_lora(values):
        return changed({}, "an adapter's own weights stay in float32 here")
    if name == "full_bf16":
        return changed({"training.weight_dtype": "bf16"}, "updates are rounded at random, so that small ones count")
    return changed({}, "what trains stays in float32 here, which takes more memory")


def whole_vae(values: Values, name: str) -> Outcome | str:
    """no_half_vae."""
    return "fp32" if values.flag(name) else unneeded("the VAE runs in float32 here unless model.vae_precision asks")


def small_base(values: Values, name: str) -> Outcome:
    """fp8_base, fp8_base_unet."""
    if not values.flag(name):
        return unneeded("off")
    if not is_lora(values) or method(values) != "lora":
        return changed({}, "the base stays in the precision of the training here, which takes more memory")
    return changed({"training.base_precision": "8bit"}, "8-bit integers here, 8-bit floats there")


def fused(values: Values, name: str) -> Outcome:
    """fused_backward_pass, fused_optimizer_groups."""
    on = values.flag(name) if name == "fused_backward_pass" else (values.whole(name) or 0) > 0
    if not on:
        return unneeded("off")
    if is_lora(values):
        return unneeded("a LoRA's gradients are small")
    return changed({"training.fused_backward": True, "training.max_grad_norm": 0.0}, "gradients are not clipped here")


def is_fused(values: Values) -> bool:
    on = values.flag("fused_backward_pass") or (values.whole("fused_optimizer_groups") or 0) > 0
    return on and not is_lora(values)


def clipping(values: Values, name: str) -> Outcome | float | None:
    found = values.number(name)
    if found and is_fused(values):
        return changed({"training.max_grad_norm": 0.0}, "each tensor is clipped alone there, none is here")
    return found


def weighting(values: Values, name: str) -> Outcome:
    """min_snr_gamma and debiased_estimation_loss, which multiply there."""
    gamma, debiased = values.number("min_snr_gamma") or 0, values.flag("debiased_estimation_loss")
    if not (gamma if name == "min_snr_gamma" else debiased):
        return unneeded("off")
    if gamma and debiased:
        return missing("min_snr_gamma and debiased_estimation_loss exclude each other here: leave one of them out")
    if gamma:
        return carried({"loss.weighting": "min_snr", "loss.gamma": gamma})
    return carried({"loss.weighting": "debiased"})


def noise(values: Values) -> dict[str, Any]:
    """All noise settings, those without effect left out."""
    found: dict[str, Any] = {}
    if strength := values.number("noise_offset"):
        found["noise.offset.strength"] = strength
        found["noise.offset.random_strength"] = values.flag("noise_offset_random_strength")
        found["noise.offset.adaptive"] = values.number("adaptive_noise_scale") or 0.0
    if levels := values.whole("multires_noise_iterations"):
        found["noise.pyramid.iterations"] = levels
        found["noise.pyramid.discount"] = values.number("multires_noise_discount")
    if gamma := values.number("ip_noise_gamma"):
        found["noise.perturbation.gamma"] = gamma
        found["noise.perturbation.random_strength"] = values.flag("ip_noise_gamma_random_strength")
    return found


def prediction(values: Values, name: str) -> str:
    return "v" if values.flag(name) else "epsilon"


def zero_snr(values: Values, name: str) -> str:
    return "on" if values.flag(name) else "off"


def weights_file(values: Values, name: str) -> Outcome | None:
    """dim_from_weights: rank and alpha are those of network_weights, which the reader has looked up."""
    if not values.flag(name):
        return unneeded("off")
    found = values.context.tables.get("network_weights")
    if not isinstance(found, dict):
        return missing(f"the ranks are those of {values.text('network_weights')!r}, which cannot be read now")
    return changed({}, "lora.rank and lora.alpha are those of the file")
