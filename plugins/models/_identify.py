"""Tells what a base is from its file list, names and shapes, without reading weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plugins.models._diffusers_folder import DiffusersFolder, find
from trainer.files.tensor_file import PICKLE_SUFFIXES, read_header, read_json

_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
_UNET = "model.diffusion_model."
FILLING = 9  # channels: noisy latents, mask, latents of what it leaves visible


@dataclass(frozen=True)
class Identity:
    """`family` is the plugin that trains it, or "" for what none of Stable Diffusion's families trains."""

    family: str
    what: str  # "a Stable Diffusion 1.x checkpoint (one file)"
    layout: str = ""  # "sd1", "sd2", "sdxl": which original layout, for one file


def identify(base: str) -> Identity | None:
    """None when there is nothing that is known. Raises UserError when a file is damaged, or a hub id cannot be had."""
    folder = find(base)
    if folder is not None:
        return of_folder(folder)
    path = Path(base)
    if path.is_file():
        return of_names(read_header(path).shapes) if path.suffix in _SUFFIXES else None
    return _of_hub(base)


def of_folder(folder: DiffusersFolder) -> Identity:
    """From model_index.json, and the UNet's config for what the index leaves open."""
    unet = folder.path / "unet" / "config.json"
    channels = int(read_json(unet).get("in_channels", 4)) if unet.is_file() else 4
    return _of_index(folder.index(), channels)


def _inpainting(channels: int) -> str:
    return " for inpainting" if channels == FILLING else ""


def _of_index(index: Mapping[str, object], channels: int) -> Identity:
    kind = str(index.get("_class_name", "model without a name"))
    has = {part for part, value in index.items() if isinstance(value, list) and value and value[-1] is not None}
    if "unet" not in has:
        return Identity("", f"a diffusers folder of a {kind}")
    if channels not in (4, FILLING):
        return Identity(
            "", f"a diffusers folder of a {kind} whose UNet takes {channels} channels ({_conditioned(channels)})"
        )
    if "text_encoder_2" in has and "text_encoder" not in has:
        return Identity("", "a diffusers folder of the Stable Diffusion XL refiner")
    if "text_encoder_2" in has:
        return Identity("sdxl", f"a diffusers folder with a UNet{_inpainting(channels)} and two text encoders")
    if "text_encoder" in has:
        return Identity("sd", f"a diffusers folder with a UNet{_inpainting(channels)} and one text encoder")
    return Identity("", f"a diffusers folder of a {kind}")


def of_names(shapes: Mapping[str, tuple[int, ...]]) -> Identity | None:
    """One file, from the names and shapes of its tensors."""
    for mark, what in _OTHERS:
        if any(mark in name for name in shapes):
            return Identity("", what)
    first = shapes.get(f"{_UNET}input_blocks.0.0.weight")
    if first is None:
        return None
    prefixes = {".".join(name.split(".")[:3]) for name in shapes}
    layout = next((layout for mark, layout in _TEXT if mark in prefixes), "")
    if not layout:
        return Identity("", "a UNet without text encoders")
    name = _LAYOUTS[layout]
    if len(first) > 1 and first[1] not in (4, FILLING):
        return Identity("", f"a {name} checkpoint whose UNet takes {first[1]} channels ({_conditioned(first[1])})")
    if layout == "refiner":
        return Identity("", f"the {name}")
    what = f"a {name}{_inpainting(first[1]) if len(first) > 1 else ''} checkpoint (one file)"
    return Identity("sdxl" if layout == "sdxl" else "sd", what, layout)


# Which text encoders the file holds tells the family; the first that is found counts.
_TEXT = (
    ("conditioner.embedders.1", "sdxl"),
    ("conditioner.embedders.0", "refiner"),
    ("cond_stage_model.model.transformer", "sd2"),
    ("cond_stage_model.transformer.text_model", "sd1"),
    ("cond_stage_model.transformer.encoder", "sd1"),
)
_LAYOUTS = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "refiner": "Stable Diffusion XL refiner",
}
# Names that only other models have.
_OTHERS = (
    ("joint_blocks.", "a Stable Diffusion 3 checkpoint"),
    ("double_blocks.", "a Flux checkpoint"),
    ("transformer_blocks.0.norm1_context", "a diffusion transformer in diffusers' names (SD 3 or Flux)"),
    (".lora_down.", "a LoRA, not a base model"),
    (".lora_A.", "a LoRA, not a base model"),
    ("lora_unet_", "a LoRA, not a base model"),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("emb_params", "a textual inversion embedding"),
    ("edm_vpred.", "an EDM-parametrised model (CosXL)"),
    ("edm_mean", "an EDM-parametrised model (Playground)"),
    ("effnet_mapper.", "a Stable Cascade checkpoint"),
    ("down_blocks.0.resnets.0.conv1", "a single network in diffusers' names; use the whole diffusers folder instead"),
)


def _conditioned(channels: int) -> str:
    return {8: "image editing", 5: "depth"}.get(channels, "conditioned on something else than text")


def _of_hub(base: str) -> Identity | None:
    """Raises UserError when the hub cannot be asked, or has no such model."""
    from plugins.models import _hub  # takes a third of a second, and no file needs it

    return of_folder(_hub.facts(base)) if _hub.is_id(base) and not base.endswith(_SUFFIXES) else None
