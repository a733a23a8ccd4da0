"""Splits the tensor names of any LoRA format (kohya, LyCORIS, diffusers, peft) into module and kohya's tensor name."""

from __future__ import annotations

import re

from trainer.adapters.adapter_weights import DOWN, LEAVES, MAGNITUDE, UP

ALPHA = "alpha"
_KOHYA = (*(leaf for leaves in LEAVES.values() for leaf in leaves), MAGNITUDE, ALPHA)
_OTHERS = (  # how diffusers and peft end their names, with kohya's name for it
    (re.compile(r"\.lora_A(\.default)?\.weight"), DOWN),
    (re.compile(r"\.lora_B(\.default)?\.weight"), UP),
    (re.compile(r"\.lora\.down\.weight"), DOWN),
    (re.compile(r"\.lora\.up\.weight"), UP),
    (re.compile(r"\.lora_linear_layer\.down\.weight"), DOWN),
    (re.compile(r"\.lora_linear_layer\.up\.weight"), UP),
    (re.compile(r"\.lora_magnitude_vector(\.default)?(\.weight)?"), MAGNITUDE),
)
_PROCESSOR = re.compile(r"(\.processor)?\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight")  # diffusers before 0.20
_UNET_LAYERS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
_TEXT_LAYERS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_WRAPPER = "base_model.model."  # peft puts it in front


def split(name: str) -> tuple[str, str] | None:
    """("lora_unet_mid_block_..." or "unet.mid_block...", kohya's tensor name), or None for what is no LoRA tensor."""
    for leaf in _KOHYA:
        if name.endswith(f".{leaf}"):
            return name.removesuffix(f".{leaf}").removeprefix(_WRAPPER), leaf
    for pattern, leaf in _OTHERS:
        found = pattern.search(name)
        if found is not None and found.end() == len(name):
            return name[: found.start()].removeprefix(_WRAPPER), leaf
    old = _PROCESSOR.search(name)
    if old is not None and old.end() == len(name):
        module = name[: old.start()]
        names = _TEXT_LAYERS if module.endswith("self_attn") else _UNET_LAYERS
        return f"{module}.{names[old[2]]}", DOWN if old[3] == "down" else UP
    return None
