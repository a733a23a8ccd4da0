"""Random numbers for the noise stages, drawn where the generator lives and used where the latents live."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Generator, Tensor


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision that noise is made in: float32, or float64 for float64 latents."""
    return torch.promote_types(dtype, torch.float32)


def normal(shape: tuple[int, ...], generator: Generator, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype).to(device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor, of the host, on a device. Towards CUDA the host does not wait; Metal may read what is gone."""
    return tensor.to(device, non_blocking=device.type == "cuda")


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


def random_strength(most: float, generator: Generator, like: Tensor) -> Tensor:
    """One strength for a whole batch, uniform in [0, most), as kohya's sd-scripts draw it; (1,)."""
    return most * torch.rand(1, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def host_random(count: int, generator: Generator) -> list[float]:
    """Uniform numbers in [0, 1) as Python floats, without waiting for a GPU: its generator's state is on the host."""
    if generator.device.type != "cpu":
        state = generator.get_state().numpy().tobytes()
        seed = int.from_bytes(hashlib.blake2b(state, digest_size=8).digest(), "little")
        generator = Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


def where_it_acts(acts: Tensor | None, noise: Tensor, plain: Tensor) -> Tensor:
    """The plain draw for samples outside a stage's timesteps; acts: (B,) bool, None = everywhere."""
    if acts is None:
        return noise
    return torch.where(acts.reshape(-1, *(1 for _ in plain.shape[1:])), noise, plain)
