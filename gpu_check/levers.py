"""What only a card can judge, and no setting switches on before it was measured to be better."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from gpu_check.int8 import use_int8
from trainer.assembly.run import PreparedRun
from trainer.device.beforehand import allow_compiling

aten = torch.ops.aten
# Kept for the backward pass, as they take the time; norms, activations and sums are computed again.
KEPT = [
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.convolution.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
]


def whole_network_compiled(run: PreparedRun) -> None:
    """One graph for each part that trains, for this size alone, where performance.compile has one for each block."""

    allow_compiling()
    for part in _learning(run):
        part.compile(dynamic=False)


def int8_products(run: PreparedRun) -> None:
    for part in _learning(run):
        use_int8(part)


def int8_products_compiled(run: PreparedRun) -> None:
    """Rounding is many small kernels, which a compiler makes one of."""
    int8_products(run)
    whole_network_compiled(run)


def operations_recomputed(run: PreparedRun) -> None:
    """Recomputes the cheap operations of all blocks, and keeps what the dear ones gave."""
    contexts = partial(create_selective_checkpoint_contexts, KEPT)

    def call(block: nn.Module, *inputs: Any) -> Any:
        return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)

    for part in _learning(run):
        if hasattr(part, "enable_gradient_checkpointing"):
            part.enable_gradient_checkpointing(call)  # type: ignore[operator]


def _learning(run: PreparedRun) -> list[nn.Module]:
    return [part for part in run.family.parts.values() if any(p.requires_grad for p in part.parameters())]
