"""A finished LoRA by the ss_ metadata in its header: the settings of sd-scripts that it was trained with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.config import in_headers
from trainer.config.foreign.keys import Table
from trainer.config.foreign.outcome import Outcome, changed, missing, unneeded
from trainer.config.foreign.sd_scripts import reader
from trainer.config.foreign.translate import Source
from trainer.config.foreign.values import NOTHING, Context, literal
from trainer.config.keys import paths
from trainer.errors import UserError
from trainer.files.metadata import SETTINGS

# The metadata's name without ss_ -> sd-scripts' key, where they differ.
NAMES = {
    "sd_model_name": "pretrained_model_name_or_path",
    "vae_name": "vae",
    "debiased_estimation": "debiased_estimation_loss",
    "batch_size_per_device": "train_batch_size",
}
_SAME = frozenset(
    ("output_name", "learning_rate", "unet_lr", "text_encoder_lr", "max_train_steps", "gradient_checkpointing",
     "gradient_accumulation_steps", "lr_warmup_steps", "lr_scheduler", "network_module", "network_dim",
     "network_alpha", "network_dropout", "mixed_precision", "full_fp16", "fp8_base", "fp8_base_unet", "lowram", "v2",
     "clip_skip", "max_token_length", "cache_latents", "seed", "noise_offset", "noise_offset_random_strength",
     "v_parameterization", "adaptive_noise_scale", "multires_noise_iterations", "multires_noise_discount",
     "ip_noise_gamma", "ip_noise_gamma_random_strength", "zero_terminal_snr", "min_snr_gamma", "loss_type",
     "huber_schedule", "huber_scale", "huber_c", "scale_weight_norms", "max_grad_norm", "prior_loss_weight",
     "caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "face_crop_aug_range",
     "training_comment", "validation_seed", "validation_split", "max_validation_steps", "validate_every_n_epochs",
     "validate_every_n_steps", "resize_interpolation", "color_aug", "flip_aug", "random_crop", "shuffle_caption",
     "enable_bucket", "bucket_no_upscale", "min_bucket_reso", "max_bucket_reso", "keep_tokens", "timestep_sampling",
     "sigmoid_scale", "discrete_flow_shift", "weighting_scheme", "logit_mean", "logit_std", "mode_scale"),
)  # fmt: skip
_OF_SUBSETS = ("num_repeats", "color_aug", "flip_aug", "random_crop", "shuffle_caption", "keep_tokens",
               "keep_tokens_separator", "secondary_separator", "enable_wildcard", "caption_prefix", "caption_suffix",
               "resize_interpolation", "image_dir", "class_tokens", "is_reg", "metadata_file")  # fmt: skip
_OF_DATASETS = ("enable_bucket", "min_bucket_reso", "max_bucket_reso", "resize_interpolation")
_CALLED = re.compile(r"([\w.]+)(?:\((.*)\)|((?: \w+=.*)?))", re.DOTALL)  # module.Class(a=1,b=2), or ours: name a=1 b=2
_FOLDERS = ("ss_datasets", "ss_dataset_dirs", "ss_reg_dataset_dirs")
DYNAMIC = "Dynamic"  # kohya's word for sizes that differ from module to module
_DOWN = ("lora_down.weight", "lora_A.weight")
UNSURE = ("model.base", "model.vae", "datasets")


def is_one(header: Mapping[str, Any]) -> bool:
    return "ss_learning_rate" in header.get("__metadata__", {})


def source(header: Mapping[str, Any], path: Path, folder: Path) -> Source:
    """Raises UserError for a header without training metadata."""
    told = header.get("__metadata__", {})
    if not is_one(header):
        raise UserError(f"{path}: nothing in its metadata says how it was trained (there is no ss_learning_rate).")
    if (settings := in_headers.read(told)) is not None:
        return _of_ours(told, settings, folder)
    names: dict[str, tuple[str, ...]] = {}
    given: dict[str, Any] = {}
    known: dict[str, Outcome] = {}
    for name, value in told.items():
        if name == "ss_network_alpha" and value == DYNAMIC:
            known[name] = missing(
                "the file was resized: its alphas lie in its tensors, and what was trained with is lost"
            )
            continue
        fed = _fed(name, value)
        if fed is None:
            known[name] = unneeded("tells about the run or the file, not how to train")
            continue
        given |= fed
        names[name] = tuple(reader.expanded_names(fed, fed))
    given |= _parts(header) | _precision(header) | _rank(header, given)
    version = str(told.get("ss_base_model_version"))
    script = next((f"{name}_train_network.py" for name in ("sdxl", "anima") if name in version), "train_network.py")
    images = _images(told)
    for name in _FOLDERS if images else ():
        if name in told:
            given[reader.DATASET_FILE] = told[name]
            names[name] = (reader.DATASET_FILE,)
            del known[name]
    found = reader.source(given, folder, script=script, what="a finished LoRA", images=images)
    return replace(found, names=names, told=known, raw=dict(sorted(told.items())), unsure=UNSURE)


def _of_ours(told: Mapping[str, str], settings: dict[str, Any], folder: Path) -> Source:
    """A file that was made here tells every setting."""
    known = {name: unneeded(f"{SETTINGS} tells all") for name in told} | {SETTINGS: changed(settings, "")}
    unsure = tuple(key for key in settings if key in paths() or key == "datasets")
    return Source(
        "Immiscible Trainer",
        "a finished LoRA",
        Table(),
        {},
        Context(folder),
        told=known,
        raw=dict(sorted(told.items())),
        unsure=(*UNSURE, *unsure),
        implied=settings,
    )


def _fed(name: str, value: str) -> dict[str, Any] | None:
    """The keys of sd-scripts that a name of the metadata feeds; None for one that says nothing of the training."""
    key = name.removeprefix("ss_")
    if name == "modelspec.prediction_type":
        return {"v_parameterization": value.lower().startswith("v")}
    if name == "ss_base_model_version" and value.endswith("_v"):  # sd_v2_v, before modelspec was written
        return {"v_parameterization": True}
    if name == "ss_optimizer":
        return _optimizer(value)
    if name == "ss_network_args":
        arguments = literal(_json(value)) or {}
        return {"network_args": {k: v for k, v in arguments.items() if v is not None}}
    if name == "ss_resolution":
        return {"resolution": literal(value)}
    if not name.startswith("ss_") or (key not in _SAME and key not in NAMES):
        return None
    return {NAMES.get(key, key): value}


def _json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None


def _optimizer(text: str) -> dict[str, Any]:
    """torch.optim.adamw.AdamW(weight_decay=0.1,betas=(0.9, 0.99)); ours write adamw weight_decay=0.1."""
    found = _CALLED.fullmatch(text.strip())
    if found is None:
        return {"optimizer_type": text}
    separator = r",(?=\s*\w+=)" if found[2] else r" (?=\w+=)"
    arguments = [piece.strip() for piece in re.split(separator, found[2] or found[3] or "") if piece.strip()]
    return {"optimizer_type": found[1].rpartition(".")[2], "optimizer_args": arguments}


def _parts(header: Mapping[str, Any]) -> dict[str, bool]:
    """What has trained is what the file holds."""
    text = any(name.startswith(("lora_te", "text_encoder")) for name in header)
    network = any(name.startswith(("lora_unet", "unet")) for name in header)
    return {"network_train_unet_only": network and not text, "network_train_text_encoder_only": text and not network}


def _precision(header: Mapping[str, Any]) -> dict[str, str]:
    """In which its weights were saved."""
    kinds = {about.get("dtype") for name, about in header.items() if name != "__metadata__"}
    names = {"F16": "fp16", "BF16": "bf16", "F32": "float"}
    return {"save_precision": names[kinds.pop()]} if len(kinds) == 1 and kinds <= set(names) else {}


def _rank(header: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, int]:
    """The largest of the file's ranks where its metadata only says that they differ, as after `resize`."""
    if given.get("network_dim") != DYNAMIC:
        return {}
    shapes = [about.get("shape", []) for name, about in header.items() if name.endswith(_DOWN)]
    narrow = [shape for shape in shapes if shape[2:] in ([], [1, 1])]
    return {"network_dim": max((shape[0] for shape in narrow or shapes if shape), default=0)}


def _images(told: Mapping[str, str]) -> dict[str, Any] | None:
    """Tables of images as far as they are known: folders by their names. Which caption files were read is not."""
    general = {"caption_extension": ""}
    datasets = _json(told.get("ss_datasets"))
    if isinstance(datasets, list) and datasets:
        return {"general": general, "datasets": [_dataset(one) for one in datasets if isinstance(one, dict)]}
    subsets = _folders(told.get("ss_dataset_dirs"), {}) + _folders(told.get("ss_reg_dataset_dirs"), {"is_reg": True})
    return {"general": general, "datasets": [{"subsets": subsets}]} if subsets else None


def _folders(text: Any, more: Mapping[str, Any]) -> list[dict[str, Any]]:
    folders = _json(text)
    found = []
    for name, about in folders.items() if isinstance(folders, dict) else ():
        _, underscore, tokens = name.partition("_")
        words = {"class_tokens": tokens} if underscore and name[0].isdigit() else {}
        found.append({"image_dir": name, "num_repeats": about.get("n_repeats", 1), **words, **more})
    return found


def _dataset(about: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: about[key] for key in _OF_DATASETS if about.get(key) not in (*NOTHING, False)}
    found["resolution"] = about.get("resolution", 512)
    found["batch_size"] = about.get("batch_size_per_device", 1)
    subsets = [
        {key: one[key] for key in _OF_SUBSETS if one.get(key) not in (*NOTHING, False)}
        for one in about.get("subsets", [])
    ]
    return found | {"subsets": [subset for subset in subsets if subset] or [{"image_dir": "images"}]}
