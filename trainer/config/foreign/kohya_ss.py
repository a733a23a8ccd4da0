"""The JSON of bmaltais' kohya_ss: which keys of sd-scripts each field of its forms feeds, and how."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainer.config.foreign.outcome import Outcome, changed, unneeded
from trainer.config.foreign.sd_scripts import reader
from trainer.config.foreign.sd_scripts.table import KEYS, SECRETS
from trainer.config.foreign.translate import Source
from trainer.config.foreign.values import NOTHING, literal
from trainer.errors import UserError

# Its name of a field -> sd-scripts' key. All others have sd-scripts' own name.
NAMES = {
    "optimizer": "optimizer_type",
    "max_resolution": "resolution",
    "lora_network_weights": "network_weights",
    "sdxl_no_half_vae": "no_half_vae",
    "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs",
    "image_folder": "train_data_dir",
}
OTHER_MODELS = ("flux1_checkbox", "sd3_checkbox", "hunyuan_image_checkbox", "anima_checkbox", "lumina_checkbox")
_OF_OTHER_MODELS = ("flux", "sd3_", "hunyuan", "anima_", "lumina_", "t5", "clip_l", "clip_g", "single_", "double_",
                    "img_", "txt_", "show_timesteps", "logit_", "pos_emb", "train_double", "train_single")  # fmt: skip
_ALSO_OF_OTHER_MODELS = frozenset(
    ("ae", "model_type", "discrete_flow_shift", "model_prediction_type", "timestep_sampling", "split_mode",
     "train_blocks", "enable_all_linear", "guidance_scale", "mem_eff_save", "apply_t5_attn_mask", "split_qkv",
     "train_t5xxl", "cpu_offload_checkpointing", "blocks_to_swap", "in_dims", "mode_scale", "save_clip", "save_t5xxl",
     "weighting_scheme", "train_lora_ggpo", "ggpo_sigma", "ggpo_beta", "blockwise_fused_optimizers"),
)  # fmt: skip
_STARTING = frozenset(
    ("num_cpu_threads_per_process", "num_processes", "num_machines", "multi_gpu", "gpu_ids", "main_process_port",
     "dynamo_mode", "dynamo_use_fullgraph", "dynamo_use_dynamic", "extra_accelerate_launch_args"),
)  # fmt: skip
_OF_THE_FORM = frozenset(
    ("model_list", "headless", "print_only", "create_caption", "create_buckets", "full_path", "save_as_bool",
     "generate_caption_database", "generate_image_buckets", "batch_size", "use_latent_files", "use_wandb",
     "conv_dims", "conv_alphas", "latent_metadata_filename", "caption_metadata_filename", "train_dir", "sdxl",
     "sdxl_checkbox", "template", "weights"),
)  # fmt: skip

_BLOCKS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims", "block_alphas",
           "conv_block_dims", "conv_block_alphas")  # fmt: skip
_DROPOUTS = ("rank_dropout", "module_dropout")
_LYCORIS = ("preset", "conv_dim", "conv_alpha", *_DROPOUTS, "rank_dropout_scale", "train_norm")
_LYCORIS_MORE = (*_LYCORIS, "use_tucker", "bypass_mode", "dora_wd", "use_scalar")


@dataclass(frozen=True)
class Kind:
    """A kind of LoRA in its list: sd-scripts' network_module, the algorithm, and which fields become network_args."""

    module: str
    arguments: tuple[str, ...]
    algorithm: str = ""


KINDS = {
    "Standard": Kind("networks.lora", (*_BLOCKS, *_DROPOUTS)),
    "Kohya LoCon": Kind("networks.lora", ("conv_dim", "conv_alpha", *_BLOCKS, *_DROPOUTS)),
    "LoCon": Kind("lycoris.kohya", _LYCORIS_MORE, "locon"),
    "LyCORIS/LoCon": Kind("lycoris.kohya", _LYCORIS_MORE, "locon"),
    "LyCORIS/LoHa": Kind("lycoris.kohya", _LYCORIS_MORE, "loha"),
    "LyCORIS/LoKr": Kind("lycoris.kohya", (*_LYCORIS_MORE, "factor", "use_cp", "decompose_both"), "lokr"),
    "LyCORIS/iA3": Kind("lycoris.kohya", ("preset", "conv_dim", "conv_alpha", "train_on_input"), "ia3"),
    "LyCORIS/DyLoRA": Kind("lycoris.kohya", (*_LYCORIS, "unit"), "dylora"),
    "LyCORIS/GLoRA": Kind("lycoris.kohya", _LYCORIS, "glora"),
    "LyCORIS/BOFT": Kind("lycoris.kohya", _LYCORIS, "boft"),
    "LyCORIS/Diag-OFT": Kind("lycoris.kohya", (*_LYCORIS, "constrain", "rescaled"), "diag-oft"),
    "LyCORIS/Native Fine-Tuning": Kind("lycoris.kohya", _LYCORIS, "full"),
    "Kohya LoHa": Kind("networks.loha", ("conv_dim", "conv_alpha", *_DROPOUTS)),
    "Kohya LoKr": Kind("networks.lokr", ("conv_dim", "conv_alpha", "factor", *_DROPOUTS)),
    "Kohya DyLoRA": Kind("networks.dylora", ("conv_dim", "conv_alpha", "unit", *_BLOCKS, *_DROPOUTS)),
    "LoRA-FA": Kind("networks.lora_fa", (*_BLOCKS, *_DROPOUTS)),
}
_ALL_ARGUMENTS = {name for kind in KINDS.values() for name in kind.arguments} | {"LyCORIS_preset", "use_cp"}
_PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")


def is_one(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object is of this program."""
    forms = ("LoRA_type", "max_resolution", "lr_warmup", "model_list", "num_cpu_threads_per_process")
    return sum(name in content for name in forms) >= 2


@dataclass
class _Fed:
    """What has been collected for sd-scripts so far."""

    content: Mapping[str, Any]
    given: dict[str, Any] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    told: dict[str, Outcome] = field(default_factory=dict)

    def feed(self, name: str, values: Mapping[str, Any]) -> None:
        self.given |= values
        self.names[name] = (*self.names.get(name, ()), *values)

    def number(self, name: str) -> float:
        """0 where the field is blank."""
        value = self.content.get(name)
        try:
            return 0.0 if value is None or value in NOTHING else float(value)
        except (TypeError, ValueError):
            raise UserError(f"{name}: found {value!r}, expected a number.") from None


def source(content: Mapping[str, Any], folder: Path) -> Source:
    """Raises UserError for a model that is not SD or SDXL."""
    if others := [name for name in OTHER_MODELS if literal(content.get(name)) is True]:
        raise UserError(f"{others[0]}: it trains what is not here; there are SD 1.x, 2.x and SDXL.")
    fed = _Fed(content)
    for name in content:
        special = SPECIAL.get(name)
        if special is not None:
            special(fed, name)
        else:
            _plain(fed, name)
    _rest(fed)
    found = reader.source(fed.given, folder, script=_script(content), what="a kohya_ss config")
    names = {n: tuple(reader.expanded_names(fed.given, fed_by)) for n, fed_by in fed.names.items()}
    return replace(found, names=names, told=fed.told, raw=dict(content), secrets=SECRETS)


def _script(content: Mapping[str, Any]) -> str:
    sdxl = any(literal(content.get(name)) is True for name in ("sdxl", "sdxl_checkbox"))
    if "token_string" in content:
        return reader.INVERSION[sdxl]
    if "LoRA_type" in content:
        return "sdxl_train_network.py" if sdxl else "train_network.py"
    if sdxl:
        return "sdxl_train.py"
    return "fine_tune.py" if _is_fine_tuning(content) else "train_db.py"


def _is_fine_tuning(content: Mapping[str, Any]) -> bool:
    """Its tab for metadata files."""
    return "image_folder" in content or "create_caption" in content or "train_text_encoder" in content


def _plain(fed: _Fed, name: str) -> None:
    """A field that goes to sd-scripts as it is; where it is 0 it is left out, so that sd-scripts' default counts."""
    key, value = NAMES.get(name, name), fed.content[name]
    if why := _without_effect(fed, name):
        fed.told[name] = unneeded(why)
        return
    known = KEYS.find(key)
    default = known.default if known is not None else None
    if value in NOTHING:
        fed.told[name] = unneeded("empty")
    elif literal(value) in (0, False) and default is None and name != "learning_rate_te":
        fed.told[name] = unneeded("off")
    elif literal(value) in (0, False) and default:
        fed.told[name] = changed({}, f"the form leaves a 0 out, and sd-scripts takes its own {default!r}")
    else:
        fed.feed(name, {key: value})


def _without_effect(fed: _Fed, name: str) -> str:
    if name in _STARTING:
        return "how the process is started; for several GPUs see docs/multi-gpu.md"
    if name in _ALSO_OF_OTHER_MODELS or name.startswith(_OF_OTHER_MODELS):
        return "of other models"
    if name in _OF_THE_FORM:
        return "of the form itself"
    if name.startswith(("adaptive_noise", "noise_offset")) and fed.content.get("noise_offset_type") == "Multires":
        return "noise_offset_type = Multires leaves it out"
    if name.startswith("multires") and fed.content.get("noise_offset_type") == "Original" and _is_lora(fed):
        return "noise_offset_type = Original leaves it out"
    return ""


def _is_lora(fed: _Fed) -> bool:
    return "LoRA_type" in fed.content


# --- fields that are more than a value


def _kind(fed: _Fed, name: str) -> None:
    """LoRA_type."""
    found = KINDS.get(str(fed.content[name]))
    if found is None:
        fed.feed(name, {"network_module": str(fed.content[name])})
        return
    algorithm = {"network_args.algo": found.algorithm} if found.algorithm else {}
    fed.feed(name, {"network_module": found.module, **algorithm})


def _argument(fed: _Fed, name: str) -> None:
    """A field that becomes one of network_args, if the kind of LoRA has it."""
    kind = KINDS.get(str(fed.content.get("LoRA_type")))
    key, value = {"LyCORIS_preset": "preset"}.get(name, name), fed.content[name]
    if kind is None or key not in kind.arguments:
        fed.told[name] = unneeded(f"LoRA_type {fed.content.get('LoRA_type')} does not use it")
    elif value in NOTHING or (literal(value) in (0, False) and not kind.algorithm and key not in ("conv_dim",)):
        fed.told[name] = unneeded("off")
    else:
        fed.feed(name, {f"network_args.{key}": value})


def _ratio(fed: _Fed, name: str) -> None:
    if fed.number(name) > 0:
        fed.feed(name, {f"network_args.{name}": fed.number(name)})
    else:
        fed.told[name] = unneeded("off")


def _rates(fed: _Fed, name: str) -> None:
    """text_encoder_lr and unet_lr: a rate of 0 beside one that is not leaves its part out."""
    text, network = fed.number("text_encoder_lr"), fed.number("unet_lr")
    own = {"text_encoder_lr": text} if name == "text_encoder_lr" else {"unet_lr": network}
    flag = "network_train_unet_only" if name == "text_encoder_lr" else "network_train_text_encoder_only"
    only = text == 0 != network if name == "text_encoder_lr" else network == 0 != text
    fed.feed(name, {k: v for k, v in own.items() if v} | {flag: only})


def _steps(fed: _Fed, name: str) -> None:
    """epoch, max_train_steps, max_train_epochs: the form works the number of steps out where none is given."""
    if fed.number("max_train_epochs"):
        winner, value = "max_train_epochs", {"max_train_epochs": int(fed.number("max_train_epochs"))}
    elif fed.number("max_train_steps"):
        winner, value = "max_train_steps", {"max_train_steps": int(fed.number("max_train_steps"))}
    elif fed.content.get("dataset_config") not in NOTHING:
        winner, value = "", {}
    else:
        epochs = fed.number("epoch") or 1
        halved = _is_fine_tuning(fed.content) and literal(fed.content.get("flip_aug")) is True
        winner, value = "epoch", {"max_train_epochs": -int(-epochs // (2 if halved else 1))}
    if name == winner:
        fed.feed(name, value)
    else:
        fed.told[name] = unneeded(f"{winner or 'the dataset file and 1600 steps'} comes first")


def _warmup(fed: _Fed, name: str) -> None:
    """lr_warmup is a percentage; lr_warmup_steps comes first."""
    steps, percent = fed.number("lr_warmup_steps"), fed.number("lr_warmup")
    if name == "lr_warmup_steps" and steps > 0:
        fed.feed(name, {name: int(steps)})
    elif name == "lr_warmup" and percent and steps <= 0:
        fed.feed(name, {"lr_warmup_steps": percent / 100})
    else:
        fed.told[name] = unneeded("off, or lr_warmup_steps comes first")


def _cycles(fed: _Fed, name: str) -> None:
    """Blank means as many as epochs."""
    value = int(fed.number(name)) or int(fed.number("epoch") or 1)
    fed.feed(name, {name: value})


def _attention(fed: _Fed, name: str) -> None:
    value = fed.content[name]
    fed.feed(name, {"sdpa" if value == "sdpa" else "xformers": value in ("sdpa", "xformers", True)})


def _prompts(fed: _Fed, name: str) -> None:
    lines = [line.strip() for line in str(fed.content[name]).splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if found:
        fed.feed(name, {name: found})
    else:
        fed.told[name] = unneeded("empty")


def _list(fed: _Fed, name: str) -> None:
    words = str(fed.content[name]).replace('"', "").replace("'", "").split()
    if words:
        fed.feed(name, {name: words})
    else:
        fed.told[name] = unneeded("empty")


def _more(fed: _Fed, name: str) -> None:
    """additional_parameters: arguments of sd-scripts."""
    try:
        words = shlex.split(str(fed.content[name] or ""))
    except ValueError as error:
        raise UserError(f"{name}: {error}.") from None
    if not words:
        fed.told[name] = unneeded("empty")
    key, found = "", {}
    for word in words:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            found[key] = value if equals else True
        elif key:
            found[key] = word if found[key] is True else f"{found[key]} {word}"
    fed.feed(name, found)


def _seed(fed: _Fed, name: str) -> None:
    if fed.number(name):
        fed.feed(name, {name: int(fed.number(name))})
    else:
        fed.told[name] = unneeded("drawn at random there")


def _text_encoder_end(fed: _Fed, name: str) -> None:
    """A percentage of the steps, which the form does not pass on for a LoRA."""
    percent = fed.number(name)
    if _is_lora(fed) or not percent:
        fed.told[name] = unneeded("off" if not percent else "the form ignores it for a LoRA")
    elif percent < 0:
        fed.feed(name, {"stop_text_encoder_training": -1})
    else:
        fed.told[name] = changed({"training.text_encoder_until": percent / 100}, "a share of the run")


def _noise_kind(fed: _Fed, name: str) -> None:
    fed.told[name] = unneeded("its fields say it")


Special = Callable[[_Fed, str], None]
SPECIAL: dict[str, Special] = {
    "LoRA_type": _kind,
    **dict.fromkeys(_ALL_ARGUMENTS, _argument),
    **dict.fromkeys(_PLUS, _ratio),
    **dict.fromkeys(("text_encoder_lr", "unet_lr"), _rates),
    **dict.fromkeys(("epoch", "max_train_steps", "max_train_epochs"), _steps),
    **dict.fromkeys(("lr_warmup", "lr_warmup_steps"), _warmup),
    "lr_scheduler_num_cycles": _cycles,
    "xformers": _attention,
    "sample_prompts": _prompts,
    **dict.fromkeys(("optimizer_args", "lr_scheduler_args"), _list),
    "additional_parameters": _more,
    "seed": _seed,
    **dict.fromkeys(("stop_text_encoder_training", "stop_text_encoder_training_pct"), _text_encoder_end),
    "noise_offset_type": _noise_kind,
}


def _rest(fed: _Fed) -> None:
    """What several fields make together."""
    if _is_fine_tuning(fed.content) and "LoRA_type" not in fed.content:
        latent = fed.content.get("use_latent_files") == "Yes"
        name = "latent_metadata_filename" if latent else "caption_metadata_filename"
        folder, file = fed.content.get("train_dir"), fed.content.get(name)
        if folder not in NOTHING and file not in NOTHING:
            for key in ("train_dir", name):
                fed.told.pop(key, None)
                fed.feed(key, {"in_json": f"{folder}/{file}"})
    elif "LoRA_type" not in fed.content and _script(fed.content) == "sdxl_train.py":
        # The Dreambooth tab trains SDXL's text encoders exactly when one of them has a rate.
        rates = [name for name in ("learning_rate_te1", "learning_rate_te2") if fed.number(name) > 0]
        fed.given["train_text_encoder"] = bool(rates)
        for name in ("learning_rate_te1", "learning_rate_te2"):
            if name in fed.content:
                fed.told.pop(name, None)
                fed.feed(name, {name: fed.number(name), "train_text_encoder": bool(rates)})
