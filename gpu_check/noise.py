"""The noise stage beside a plain draw and the published way, which holds all candidates at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gpu_check.machine import forget, seconds_of
from plugins.noise.oversampling import nearest_of

TOGETHER = 20
ROUNDS = 5
LARGEST = 0.5  # of the free memory that the published way may need


def published(latents: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Immiscible Diffusion's k-nearest noise (arXiv 2505.18521): all candidates, their distances, the nearest."""
    batch, *rest = latents.shape
    candidates = torch.randn((batch, k, *rest), generator=generator, device=latents.device)
    far = torch.linalg.vector_norm((candidates - latents[:, None]).flatten(2), dim=2)
    return candidates[torch.arange(batch, device=latents.device), far.argmin(dim=1)]


@torch.no_grad()
def measure(device: torch.device, shape: tuple[int, ...], ks: tuple[int, ...]) -> dict[str, Any]:
    """Milliseconds and bytes of a draw for latents of that shape, (B, C, h, w)."""
    generator, latents = torch.Generator(device).manual_seed(1), torch.randn(shape, device=device)
    figures: dict[str, Any] = {
        "shape": list(shape),
        "plain": _figures(device, lambda: torch.randn(shape, generator=generator, device=device)),
    }
    for k in ks:
        figures[f"k={k}"] = _figures(device, partial(nearest_of, latents, k, generator=generator))
        if 8 * k * latents.numel() <= LARGEST * _free(device):
            figures[f"published k={k}"] = _figures(device, partial(published, latents, k, generator))
        forget(device)
    return figures


def _figures(device: torch.device, draw: Callable[[], Tensor]) -> dict[str, float]:
    draw()
    many = 1 if device.type == "cpu" else TOGETHER

    def draws() -> None:
        for _ in range(many):
            draw()

    found = {"milliseconds": 1000 * statistics.median(seconds_of(draws, device) / many for _ in range(ROUNDS))}
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        draw()
        torch.cuda.synchronize(device)
        found["bytes"] = float(torch.cuda.max_memory_allocated(device) - before)
    return found


def _free(device: torch.device) -> float:
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 2e9
