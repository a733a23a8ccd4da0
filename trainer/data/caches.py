"""Makes the caches that [data] asks for: in memory, or in a folder that runs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from trainer.config import Data
from trainer.data.cache import EncodeText, Latents, MemoryLatents, TextCache
from trainer.data.dataset import Dataset
from trainer.data.disk_latents import DiskLatents, Recipe
from trainer.data.disk_texts import DiskTexts
from trainer.data.encode import Encode, Progress
from trainer.data.kohya_npz import KohyaLatents
from trainer.errors import UserError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def latents(
    data: Data,
    dataset: Dataset,
    encode: Encode,
    *,
    vae: Callable[[], str],
    kohya: KohyaLatents | None = None,
    rank: int = 0,
    world: int = 1,
    wait: Callable[[], object] = lambda: None,
    on_progress: Progress | None = None,
) -> Latents:
    """The latents of a dataset, encoded where they are missing.

    vae: gives a hash of whatever turns pixels into latents (`content.of_module`, and its arithmetic), asked only for
    the disk; kohya: how to read kohya's files, used with data.kohya_latents; rank, world and wait: this process, how
    many fill the cache together, and a barrier.
    Raises UserError for images that cannot be encoded, RunError when the disk is full.
    """
    complete = _checked(encode, data)
    if not data.cache_to_disk:
        return MemoryLatents.encode(dataset, complete, sampling=data.latent_sampling, on_progress=on_progress)
    recipe = Recipe(vae(), data.latent_sampling, DTYPES[data.cache_dtype])
    found = DiskLatents(dataset, Path(data.cache_dir) / "latents", recipe, kohya=kohya if data.kohya_latents else None)
    found.fill(complete, rank=rank, world=world, on_progress=on_progress)
    wait()
    found.refresh()
    return found


def texts(data: Data, encode: EncodeText, *, encoder: Callable[[], str]) -> TextCache:
    """The cache of captions, still empty in memory. `encoder`: a hash of whatever encodes text, asked only for the
    disk."""
    store = DiskTexts(Path(data.cache_dir) / "texts", encoder()) if data.cache_to_disk else None
    return TextCache(encode, store=store)


def _checked(encode: Encode, data: Data) -> Encode:
    def complete(pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        output = encode(pixels)
        if data.latent_sampling != "mean" and not isinstance(output, tuple):
            raise UserError(
                f"data.latent_sampling: {data.latent_sampling!r} needs the VAE's deviation, which this model family "
                "does not give; use 'mean'."
            )
        return output

    return complete
