"""Random numbers for the noise stages, drawn where the generator lives and used where the latents live."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision that noise is made in: float32, or float64 for float64 latents."""
    return torch.promote_types(dtype, torch.float32)


def normal(shape: tuple[int, ...], generator: Generator, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype).to(device)


def chi_square(
    shape: tuple[int, ...], freedom: int, generator: Generator, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Chi-square numbers with `freedom` >= 0 degrees of freedom, as 2 * Gamma(freedom / 2)."""
    if freedom == 0:
        return torch.zeros(shape, device=device, dtype=dtype)
    shapes = torch.full(shape, freedom / 2, device=generator.device, dtype=dtype)
    return torch._standard_gamma(shapes, generator).mul_(2).to(device)


def rows(latents: Tensor) -> Tensor:
    """(B, ...) -> (B, D) in the working precision, without a copy where none is needed."""
    return latents.reshape(len(latents), math.prod(latents.shape[1:])).to(working_dtype(latents.dtype))
