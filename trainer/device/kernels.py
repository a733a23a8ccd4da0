"""Which kernels CUDA's libraries take for the same arithmetic: TF32 for float32, and convolutions tried for speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

TF32 = Literal["auto", "on", "off"]
AMPERE = 8  # compute capability of the first GPUs with TF32
ENOUGH = 50  # batches of a size, on the average, that are worth the trial of each algorithm


@contextmanager
def kept() -> Iterator[None]:
    """Puts this process's choices back at the end, whatever was chosen inside."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def use_tf32(asked: TF32) -> None:
    """For products of matrices and convolutions in float32; auto: as torch has it, for convolutions alone."""
    torch.backends.cuda.matmul.allow_tf32 = asked == "on"
    torch.backends.cudnn.allow_tf32 = asked != "off"


def has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_properties(device).major >= AMPERE


def try_convolutions(on: bool) -> None:
    """cuDNN tries its algorithms at each new size and keeps the quickest: another one perhaps in the next process."""
    torch.backends.cudnn.benchmark = on


def sizes_repeat(batches: int, sizes: int) -> bool:
    """Whether so many batches of so many sizes are worth the trials."""
    return batches >= ENOUGH * max(1, sizes)
