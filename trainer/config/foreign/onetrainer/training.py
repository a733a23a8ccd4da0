"""OneTrainer's precision, loss, timesteps and noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from trainer.config.foreign.onetrainer.parts import is_lora
from trainer.config.foreign.outcome import Outcome, carried, changed, missing, unneeded
from trainer.config.foreign.values import Values

PRECISIONS = {"float_32": "fp32", "tfloat_32": "fp32", "float_16": "fp16", "bfloat_16": "bf16", "none": "fp32"}
SLICES = 50  # of the range of timesteps, for distributions that are told as weights
_EIGHT = ("FLOAT_8", "INT_8", "FLOAT_W8A8", "INT_W8A8", "FLOAT_W8A8_COMPRESSED", "INT_W8A8_COMPRESSED")


def weight_dtype(values: Values, name: str) -> Outcome:
    """unet.weight_dtype: how weights are kept. Of the other parts nothing trains in less than float32."""
    found = values.text(name)
    if not is_lora(values):
        if name == "unet.weight_dtype" and found == "BFLOAT_16":
            return changed({"training.weight_dtype": "bf16"}, "what trains is kept so")
        return changed({}, "what trains is kept in float32 here") if found == "FLOAT_16" else unneeded("float32")
    if found == "NFLOAT_4":
        return changed({"training.base_precision": "4bit"}, "the frozen base")
    if found in _EIGHT:
        return changed({"training.base_precision": "8bit"}, "the frozen base, in 8-bit integers here")
    return unneeded("a frozen base is kept in training.precision")


def arithmetic(values: Values, name: str) -> Outcome:
    """train_dtype: TFLOAT_32 is float32 that may be rounded to TF32 in products."""
    found = values.text(name)
    rounded = {"performance.tf32": "on"} if found == "TFLOAT_32" else {}
    return carried({"training.precision": PRECISIONS.get(found.lower(), found)} | rounded)


def fallback(values: Values, _name: str) -> Outcome:
    return unneeded("losses and other sensitive steps run in float32")


_KINDS = {"mse_strength": "l2", "mae_strength": "l1"}


def loss(values: Values, name: str) -> Outcome:
    """The strengths of its losses: one of them with strength 1 is a loss here."""
    names = ("mse_strength", "mae_strength", "log_cosh_strength", "huber_strength")
    on = {n: values.number(n) or 0.0 for n in names if values.number(n)}
    if name not in on:
        return unneeded("off")
    if len(on) > 1:
        return missing(f"one kind of loss counts here, not {' + '.join(on)}")
    if name not in _KINDS:
        return missing("log-cosh and torch's Huber loss are not here; loss.kind = 'smooth_l1' is the nearest")
    if on[name] != 1:
        return missing("a loss is not scaled here: strength 1")
    return carried({"loss.kind": _KINDS[name]})


def weighting(values: Values, name: str) -> Outcome:
    found = values.text("loss_weight_fn")
    names = {"P2": "p2", "MIN_SNR_GAMMA": "min_snr", "DEBIASED_ESTIMATION": "debiased"}
    if found == "CONSTANT":
        return unneeded("every timestep weighs the same")
    if found not in names:
        return missing(f"there is no weighting {found} here")
    strength = {} if found == "DEBIASED_ESTIMATION" else {"loss.gamma": values.number("loss_weight_strength")}
    if name == "loss_weight_strength":
        return carried(strength) if strength else unneeded("DEBIASED_ESTIMATION has no strength")
    return carried({"loss.weighting": names[found]})


def distribution(values: Values, _name: str) -> Outcome:
    """timestep_distribution with its weight and bias."""
    found = values.text("timestep_distribution")
    weight, bias = values.number("noising_weight") or 0.0, values.number("noising_bias") or 0.0
    if found == "UNIFORM":
        return carried({"timesteps.distribution": "uniform"})
    if found == "LOGIT_NORMAL":
        sets = {"timesteps.distribution": "logit_normal", "timesteps.mean": bias, "timesteps.std": weight + 1}
        return carried(sets)
    if found == "BETA":
        sets = {"timesteps.alpha": max(1e-4, weight), "timesteps.beta": max(1e-4, bias)}
        return carried({"timesteps.distribution": "beta", **sets})
    density = _density(found, weight, bias)
    if density is None:
        return missing(f"there is no distribution {found} here")
    weights = [round(density((n + 0.5) / SLICES), 4) for n in range(SLICES)]
    sets = {"timesteps.distribution": "weights", "timesteps.weights": weights}
    return changed(sets, f"told as the weights of {SLICES} slices")


def _density(name: str, weight: float, bias: float) -> Callable[[float], float] | None:
    """How often a share of the range is drawn, up to a factor."""
    if name == "SIGMOID":
        return lambda x: 1 / (1 + math.exp(-weight * (x - bias - 0.5)))
    if name == "INVERTED_PARABOLA":
        return lambda x: max(0.0, 2 - weight * (x - bias - 0.5) ** 2)
    if name == "COS_MAP":
        return lambda x: 2 / (math.pi - 2 * math.pi * x + 2 * math.pi * x * x)
    if name == "HEAVY_TAIL":
        return _heavy_tail(weight)
    return None


def _heavy_tail(weight: float) -> Callable[[float], float]:
    """Mode sampling (Esser et al. 2024, arXiv 2403.03206, section 3.1), by its quantile function."""
    count = 100 * SLICES
    hits = [0] * SLICES
    for n in range(count):
        u = (n + 0.5) / count
        share = 1 - u - weight * (math.cos(math.pi / 2 * u) ** 2 - 1 + u)
        hits[min(SLICES - 1, max(0, int(share * SLICES)))] += 1
    return lambda x: hits[min(SLICES - 1, int(x * SLICES))] * SLICES / count


def strength(values: Values, name: str) -> Outcome | int | None:
    """min_noising_strength, max_noising_strength: shares of the 1000 timesteps."""
    found = values.number(name)
    return None if found is None else int(1000 * found)


def forced(values: Values, name: str) -> Outcome:
    if not values.flag(name):
        return unneeded("the base says what it predicts")
    if name == "rescale_noise_scheduler_to_zero_terminal_snr":
        return carried({"model.zero_terminal_snr": "on", "model.prediction": "v"})
    if is_lora(values):
        return unneeded("not read for a LoRA there")
    return carried({"model.prediction": "v" if "v_pred" in name else "epsilon"})


def noise(values: Values) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if offset := values.number("offset_noise_weight"):
        found |= {
            "noise.offset.strength": offset,
            "noise.offset.time_dependent": values.flag("generalized_offset_noise"),
        }
    if (candidates := values.whole("k_noise_sampling") or 1) > 1:
        found["noise.oversampling.k"] = candidates
    return found


def skip(values: Values, name: str) -> Outcome | int | None:
    """text_encoder_layer_skip counts from the last layer: 1 there is 2 here."""
    found = values.whole(name) or 0
    if not found:
        return unneeded("off")
    if values.context.family == "sdxl" or name != "text_encoder_layer_skip":
        return missing("SDXL's text encoders always give the layer before their last here")
    return changed({"model.clip_skip": found + 1}, "counted from 1 here")


def every(values: Values, name: str) -> Outcome | int | str:
    """sample_after, save_every, validate_after with their units."""
    what = name.removesuffix("_unit")
    amount, unit = values.number(what) or 0, values.text(f"{what}_unit")
    if unit in ("NEVER", "ALWAYS") or amount <= 0:
        return unneeded("never") if unit == "NEVER" or amount <= 0 else 1
    if unit == "STEP":
        return max(1, int(amount) // (values.whole("gradient_accumulation_steps") or 1))
    words = {"EPOCH": "epochs" if amount != 1 else "epoch", "SECOND": "s", "MINUTE": "m", "HOUR": "h"}
    return f"{amount:g} {words[unit]}" if unit == "EPOCH" else f"{amount:g}{words[unit]}"


def masks(values: Values) -> dict[str, Any]:
    """What masks are worth, where they count."""
    if not values.flag("masked_training"):
        return {}
    kept = values.number("masked_prior_preservation_weight") or 0.0
    sets: dict[str, Any] = {"loss.normalize_masked_area": values.flag("normalize_masked_area_loss")}
    return sets | ({"preservation.outside_mask": kept} if kept and is_lora(values) else {})
