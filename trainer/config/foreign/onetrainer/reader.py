"""Reads OneTrainer's JSON: a config, an exported one with its concepts, or a preset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config.foreign import files
from trainer.config.foreign.onetrainer.table import KEYS, OLDER
from trainer.config.foreign.translate import Source
from trainer.config.foreign.values import Context
from trainer.errors import UserError

PROGRAM = "OneTrainer"
_PARTS = ("unet", "prior", "transformer", "unconditional_transformer", "text_encoder", "text_encoder_2",
          "text_encoder_3", "text_encoder_4", "vae", "effnet_encoder", "decoder", "decoder_text_encoder",
          "decoder_vqgan", "quantization", "optimizer", "embedding", "cloud", "secrets")  # fmt: skip
_FAMILIES = {"STABLE_DIFFUSION_15": "sd", "STABLE_DIFFUSION_20": "sd", "STABLE_DIFFUSION_20_BASE": "sd",
             "STABLE_DIFFUSION_21": "sd", "STABLE_DIFFUSION_21_BASE": "sd", "STABLE_DIFFUSION_XL_10_BASE": "sdxl",
             "STABLE_DIFFUSION_15_INPAINTING": "sd", "STABLE_DIFFUSION_20_INPAINTING": "sd",
             "STABLE_DIFFUSION_XL_10_BASE_INPAINTING": "sdxl"}  # fmt: skip


def is_one(content: Mapping[str, Any]) -> bool:
    known = ("training_method", "base_model_name", "concept_file_name", "learning_rate_scheduler", "model_type")
    return sum(name in content for name in known) >= 2


def source(content: Mapping[str, Any], folder: Path) -> Source:
    """Raises UserError for what cannot be trained here."""
    flat = flattened(content)
    model, method = flat.get("model_type", "STABLE_DIFFUSION_15"), flat.get("training_method", "FINE_TUNE")
    if model not in _FAMILIES:
        raise UserError(f"model_type = {model}: there are SD 1.x, 2.x and SDXL here.")
    if method not in ("LORA", "FINE_TUNE", "EMBEDDING"):
        raise UserError(f"training_method = {method}: there are LoRAs, full fine-tunes and embeddings here.")
    given = {OLDER.get(name, name): value for name, value in flat.items()}
    _migrate(given, content)
    names = {name: (OLDER[name],) for name in flat if name in OLDER}
    tables = {
        "concepts": content.get("concepts") or _listed(content.get("concept_file_name"), folder),
        "samples": content.get("samples") or _listed(content.get("sample_definition_file_name"), folder),
    }
    context = Context(folder, family=_FAMILIES[str(model)], tables=tables)
    return Source(PROGRAM, "an OneTrainer config", KEYS, given, context, names, raw=flat)


def flattened(content: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of parts as unet.train; older files say the optimizer's in one level."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if name in _PARTS and isinstance(value, Mapping):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name == "optimizer":
            found["optimizer.optimizer"] = value
        elif name.startswith("optimizer_") and name != "optimizer_defaults":
            found[f"optimizer.{name.removeprefix('optimizer_')}"] = value
        else:
            found[name] = value
    return found


def _migrate(given: dict[str, Any], content: Mapping[str, Any]) -> None:
    """What older versions said in other values."""
    version = content.get("__version", 11)
    if version <= 4 and "unet.gradient_checkpointing" not in given:
        return
    if isinstance(given.get("unet.gradient_checkpointing"), str):
        given["unet.gradient_checkpointing"] = given["unet.gradient_checkpointing"] != "OFF"


def _listed(name: Any, folder: Path) -> Any:
    """The content of a file of concepts or samples, None where it cannot be read."""
    path = files.found(folder, str(name)) if name else None
    return files.json_list(path) if path is not None and path.is_file() else None
