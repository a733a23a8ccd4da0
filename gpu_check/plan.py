"""What is measured, the most telling first, on a card and on a machine without one."""

from __future__ import annotations

from collections.abc import Iterator

from gpu_check import levers
from gpu_check.case import Case

OVERSAMPLED = ("noise.oversampling=64",)
COMPILED = ("performance.compile=true",)
FULL = ("training.method='full'",)
# A full fine-tune of SDXL that 24 GB hold.
LEAN = (*FULL, "training.weight_dtype='bf16'", "training.fused_backward=true", "training.max_grad_norm=0",
        "optimizer.name='adafactor'", "training.gradient_checkpointing='full'")  # fmt: skip
EIGHT = ("optimizer.name='adamw8bit'",)
RECOMPUTED = ("training.gradient_checkpointing='full'",)


def first_cases() -> Iterator[Case]:
    """What everybody asks."""
    yield Case("LoRA b1", "sdxl", 1)
    yield Case("LoRA b4", "sdxl", 4)
    yield Case("LoRA b1", "sd1", 1)
    yield Case("LoRA b4", "sd1", 4)
    yield Case("LoRA b1 recomputed", "sdxl", 1, RECOMPUTED, like="LoRA b1")
    yield Case("LoRA b4 recomputed", "sdxl", 4, RECOMPUTED, like="LoRA b4")
    yield Case("LoRA b1 oversampled k=64", "sdxl", 1, OVERSAMPLED, like="LoRA b1")
    yield Case("LoRA b1 oversampled k=64", "sd1", 1, OVERSAMPLED, like="LoRA b1")
    yield Case("LoRA b1 compiled blocks", "sdxl", 1, COMPILED, needs="triton", like="LoRA b1")
    yield Case("full b4 8-bit", "sd1", 4, (*FULL, *EIGHT), needs="bitsandbytes")
    yield Case("full b1 lean", "sdxl", 1, LEAN)


def lever_cases() -> Iterator[Case]:
    """What decides which settings are the usual ones."""
    yield Case("LoRA b4 compiled blocks", "sdxl", 4, COMPILED, needs="triton", like="LoRA b4")
    yield Case("LoRA b4 int8 products", "sdxl", 4, lever=levers.int8_products, like="LoRA b4")
    yield Case("LoRA b1 8-bit AdamW", "sdxl", 1, EIGHT, needs="bitsandbytes", like="LoRA b1")
    yield Case("LoRA b4 channels last", "sdxl", 4, ("performance.channels_last=true",), like="LoRA b4")
    yield Case("LoRA b4 no cudnn.benchmark", "sdxl", 4, ("performance.cudnn_benchmark='off'",), like="LoRA b4")
    yield Case("LoRA b4 half recomputed", "sdxl", 4, ("training.gradient_checkpointing='selective'",), like="LoRA b4")
    yield Case("LoRA b4 cheap recomputed", "sdxl", 4, lever=levers.operations_recomputed, like="LoRA b4")
    yield Case("LoRA b1 base in 8 bits", "sdxl", 1, ("training.base_precision='8bit'",), "bitsandbytes", like="LoRA b1")
    yield Case("LoRA b1 base in 4 bits", "sdxl", 1, ("training.base_precision='4bit'",), "bitsandbytes", like="LoRA b1")
    yield Case("LoRA b4 whole compiled", "sdxl", 4, (), "triton", levers.whole_network_compiled, "LoRA b4")
    yield Case("LoRA b4 int8 compiled", "sdxl", 4, (), "triton", levers.int8_products_compiled, "LoRA b4")
    yield Case("full b4", "sd1", 4, FULL)
    yield Case("full b1", "sdxl", 1, FULL)
    yield Case("LoRA b4 compiled blocks", "sd1", 4, COMPILED, needs="triton", like="LoRA b4")
    yield Case("LoRA b8", "sdxl", 8)


def cpu_cases() -> Iterator[Case]:
    """All of it once, with a tiny network: that it works, not how fast a card is."""
    yield Case("LoRA b1", "tiny", 1)
    yield Case("LoRA b4", "tiny", 4)
    yield Case("LoRA b1 oversampled k=64", "tiny", 1, OVERSAMPLED, like="LoRA b1")
    yield Case("full b4", "tiny", 4, FULL)
    yield Case("full b4 8-bit", "tiny", 4, (*FULL, *EIGHT), needs="bitsandbytes", like="full b4")
    yield Case("full b1 lean", "tiny", 1, (*LEAN, "training.precision='bf16'"))
    yield Case("LoRA b4 recomputed", "tiny", 4, RECOMPUTED, like="LoRA b4")
    yield Case("LoRA b4 int8 products", "tiny", 4, lever=levers.int8_products, like="LoRA b4")
    yield Case("LoRA b4 cheap recomputed", "tiny", 4, lever=levers.operations_recomputed, like="LoRA b4")
    yield Case("LoRA b4 channels last", "tiny", 4, ("performance.channels_last=true",), like="LoRA b4")
