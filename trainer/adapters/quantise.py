"""Holds the frozen linear layers under a LoRA in 8 or 4 bits (bitsandbytes): memory bought with time and precision."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, Literal

import torch
from torch import nn

from trainer.errors import UserError

Bits = Literal[8, 4]


def quantise(root: nn.Module, bits: Bits, device: torch.device | str, compute_dtype: torch.dtype) -> int:
    """Replaces every frozen linear layer of `root` in place, and returns how many; convolutions stay as they are.

    4 bits are NF4 (Dettmers et al. 2023, arXiv 2305.14314, section 3), 8 bits LLM.int8 (arXiv 2208.07339). To be called
    before adapters are put in; peft then builds its layers over the small ones. Raises UserError without bitsandbytes.
    """
    library = _library()
    targets = [
        (parent, name, child)
        for parent in root.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and not child.weight.requires_grad
    ]
    for parent, name, layer in targets:
        setattr(parent, name, _small(library, layer, bits, compute_dtype).to(device))
    # By these peft recognises such a model.
    setattr(root, "is_loaded_in_8bit" if bits == 8 else "is_loaded_in_4bit", True)
    return len(targets)


def is_quantised(layer: nn.Module) -> bool:
    loaded: Any = sys.modules.get("bitsandbytes")  # nobody else makes such layers
    return loaded is not None and isinstance(layer, (loaded.nn.Linear4bit, loaded.nn.Linear8bitLt))


def _library() -> ModuleType:
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(
            f"training.base_precision: 8 and 4 bits need bitsandbytes, which cannot be imported here ({error}). "
            "Install it, or leave the key out."
        ) from error
    return bitsandbytes


def _small(library: Any, layer: nn.Linear, bits: Bits, compute_dtype: torch.dtype) -> nn.Module:
    kind: Any = library.nn.Linear8bitLt if bits == 8 else library.nn.Linear4bit
    settings: dict[str, Any] = {"has_fp16_weights": False} if bits == 8 else {
        "compute_dtype": compute_dtype,
        "quant_type": "nf4",
    }  # fmt: skip
    small: nn.Module = kind(layer.in_features, layer.out_features, bias=layer.bias is not None, **settings)
    small.load_state_dict(layer.state_dict())
    small.requires_grad_(False)
    return small.train(layer.training)
