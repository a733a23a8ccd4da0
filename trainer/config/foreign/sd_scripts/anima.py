"""sd-scripts' scripts for Anima: what only they read, and what of the others' keys they do not read.

Source: anima_train_network.py, anima_train.py, library/anima_train_utils.py and flux_train_utils.py of sd-scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.config.foreign.keys import Key, absent, needless, part, row, text
from trainer.config.foreign.outcome import Outcome, carried, missing, unneeded
from trainer.config.foreign.values import NOTHING, BadValueError, Values

SCRIPTS = ("anima_train_network.py", "anima_train.py")
MODULE = "networks.lora_anima"
TOKENS = 512  # of the text encoder and of the T5 tokenizer
_SAMPLING = "timestep_sampling"
_PLAIN_WEIGHT = ("uniform", "none", "logit_normal", "mode")
# What is for diffusion models and CLIP: these scripts take plain noise, one weight for all times, whole captions.
NOT_READ = (
    "v_parameterization", "zero_terminal_snr", "clip_skip", "max_token_length", "weighted_captions", "v2", "sdxl",
    "noise_offset", "noise_offset_random_strength", "adaptive_noise_scale", "multires_noise_iterations",
    "multires_noise_discount", "min_snr_gamma", "debiased_estimation_loss", "scale_v_pred_loss_like_noise_pred",
    "v_pred_like_loss", "min_timestep", "max_timestep", "fp8_base", "fp8_base_unet",
)  # fmt: skip


def script_of(values: Mapping[str, Any]) -> str:
    """Which of the scripts a file without one is for, "" for none of them."""
    network = values.get("network_module")
    if network != MODULE and values.get("qwen3") in NOTHING:
        return ""
    return SCRIPTS[network in NOTHING]


def is_anima(values: Values) -> bool:
    return values.context.script in SCRIPTS


def passes_over(script: str, name: str) -> bool:
    """Whether this script does not read a key of the others."""
    return script in SCRIPTS and name in NOT_READ


def timesteps(values: Values) -> dict[str, Any]:
    """How often each time is drawn. "sigma" counts its draws from noise to image, so its mean changes sign."""
    how, scheme = values.text(_SAMPLING) or "sigmoid", values.text("weighting_scheme") or "uniform"
    shift = {"timesteps.shift": _or(values.number("discrete_flow_shift"), 1.0)}
    width = {"timesteps.std": _or(values.number("sigmoid_scale"), 1.0)}
    if how == "uniform":
        return {"timesteps.distribution": "uniform"}
    if how in ("sigmoid", "shift"):
        return {"timesteps.distribution": "sigmoid", **width, **(shift if how == "shift" else {})}
    if how == "sigma" and scheme == "logit_normal":
        mean, std = -_or(values.number("logit_mean"), 0.0), _or(values.number("logit_std"), 1.0)
        return {"timesteps.distribution": "logit_normal", "timesteps.mean": mean, "timesteps.std": std, **shift}
    if how == "sigma" and scheme != "mode":
        return {"timesteps.distribution": "uniform", **shift}
    if how in ("sigma", "flux_shift"):
        return {}
    raise BadValueError(_SAMPLING, how, "sigma, uniform, sigmoid, shift or flux_shift")


def _or(found: float | None, otherwise: float) -> float:
    return otherwise if found is None else found


def _sampling(values: Values, _name: str) -> Outcome:
    found = timesteps(values)
    if not found:
        of_size = "flux_shift moves draws by the size of each picture, timesteps.shift by one number"
        return missing(of_size if values.text(_SAMPLING) == "flux_shift" else "there is no weighting_scheme mode here")
    return carried({"timesteps.distribution": found["timesteps.distribution"]})


def _weighting(values: Values, name: str) -> Outcome:
    scheme = values.text(name)
    if scheme in _PLAIN_WEIGHT or not scheme:
        return unneeded("every time counts alike; how often it is drawn says timestep_sampling")
    return missing(f"there is no weight {scheme} of the loss here")


def _tokens(values: Values, name: str) -> Outcome:
    if values.whole(name) in (None, TOKENS):
        return unneeded("always so")
    return missing(f"{TOKENS} tokens of every caption are read here")


_RATES = ("llm_adapter_lr", "self_attn_lr", "cross_attn_lr", "mlp_lr", "mod_lr")


def _rate(values: Values, name: str) -> Outcome:
    """Of one kind of layers in a full fine-tune."""
    if values.context.script == SCRIPTS[0]:
        return unneeded(f"{SCRIPTS[0]} does not use it")
    if values.number(name) in (None, values.number("learning_rate")):
        return unneeded("the same as learning_rate")
    return missing("the layers of the transformer share one learning rate here")


KEYS: list[Key] = [
    row("qwen3", "model.text_encoder", text),
    row(_SAMPLING, "timesteps.distribution", _sampling, "sigmoid"),
    *(
        part(name, ours, timesteps, default, "this timestep_sampling does not use it")
        for name, ours, default in (
            ("discrete_flow_shift", "timesteps.shift", 1.0),
            ("sigmoid_scale", "timesteps.std", 1.0),
            ("logit_mean", "timesteps.mean", None),
            ("logit_std", "timesteps.std", None),
        )
    ),
    row("weighting_scheme", (), _weighting),
    *needless("only for weighting_scheme mode", "mode_scale"),
    *(row(name, (), _tokens) for name in ("qwen3_max_token_length", "t5_max_token_length")),
    *(row(name, (), _rate) for name in _RATES),
    *absent("the conditioner is read from the diffusion model's file", "llm_adapter_path"),
    *needless("the tokenizers are looked for beside the text encoder and in the hub's cache", "t5_tokenizer_path"),
    *needless("text is encoded caption by caption", "text_encoder_batch_size"),
    *needless("images are encoded whole, as the model's own code does", "vae_chunk_size", "vae_disable_cache"),
    *absent("blocks stay on the GPU here", "blocks_to_swap", harmless=True),
    *needless("activations are recomputed, not moved to the host's memory", "unsloth_offload_checkpointing"),
]
