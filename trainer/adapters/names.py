"""Splits the tensor names of any LoRA format (kohya, LyCORIS, diffusers, peft) into module and kohya's tensor name."""

from __future__ import annotations

import re
from functools import cache

from trainer.adapters.weights import kinds
from trainer.batch import DOWN, MAGNITUDE, UP

ALPHA = "alpha"
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
_PLAIN = "weight"  # the name of a tensor in any network: of an adapter behind kohya's names of modules alone
_KOHYA = re.compile(r"(lora|lycoris)_[^.]+\.weight")
_UNREAD = (  # kinds that are known, and not read
    (re.compile(r"^base_model\.model\..*\.oft_R\."), "an OFT of peft, whose adapter_config.json decides its rotations"),
    (re.compile(r"\.boft_[RS](\.|$)"), "a BOFT of peft"),
    (re.compile(r"\.oft_diag$"), "an OFT of LyCORIS before version 2"),
    (re.compile(r"\.ia3_l(\.|$)"), "an IA3 of peft, which scales biases too"),
    (
        re.compile(r"\.(vera_lambda|randlora_lambda|hra_u|vblora_logits|fourierft_spectrum|waveft_spectrum)"),
        "an adapter of peft that is no LoRA",
    ),
    (re.compile(r"\.(set_weight|reshape_weight)$"), "a set of whole weights or shapes of ComfyUI"),
)


@cache
def _leaves() -> tuple[str, ...]:
    return (*dict.fromkeys(leaf for kind in kinds().values() for leaf in (*kind.leaves, *kind.extras)), ALPHA)


def unread(name: str) -> str | None:
    """What kind of adapter a tensor is of, where it is one that is known but not read."""
    return next((what for pattern, what in _UNREAD if pattern.search(name)), None)


def split(name: str) -> tuple[str, str] | None:
    """("lora_unet_mid_block_..." or "unet.mid_block...", kohya's tensor name), or None for what is no LoRA tensor."""
    if unread(name):
        return None
    for leaf in _leaves():
        if name.endswith(f".{leaf}") and not (leaf == _PLAIN and not _KOHYA.fullmatch(name)):
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
