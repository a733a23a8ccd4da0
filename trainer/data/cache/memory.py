"""Keeps what frozen encoders make of images and captions, so that each is encoded once. In memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trainer.batch import TextStates
from trainer.data.cache.encode import (
    WORKERS,
    Encode,
    Progress,
    Sampling,
    Stored,
    Variant,
    batches_of_one_size,
    encoded,
    reduced,
    variants,
)
from trainer.data.dataset import Dataset
from trainer.data.pictures import hiding

EncodeText = Callable[[Sequence[str]], TextStates]


class LatentSource(Protocol):
    """Where the loader finds latents. Reading is safe from any number of threads."""

    def read(self, variant: Variant) -> Stored:
        """Raises RunError when the cache is damaged."""
        ...

    def means(self, variants: Sequence[Variant]) -> Tensor | None:
        """(B, C, h, w) float32: the latents of variants that have neither deviation nor mask, which can be had faster
        together than one by one; None where any of them has. Raises RunError when the cache is damaged."""
        ...


class MemoryLatents:
    """Latents of a whole dataset in the host's memory."""

    def __init__(self, stored: dict[Variant, Stored]) -> None:
        self._stored = stored

    def read(self, variant: Variant) -> Stored:
        return self._stored[variant]

    def means(self, variants: Sequence[Variant]) -> Tensor | None:
        stored = [self._stored[variant] for variant in variants]
        if any(one.std is not None or one.mask is not None for one in stored):
            return None
        return torch.stack([one.mean for one in stored])

    @classmethod
    def encode(
        cls,
        dataset: Dataset,
        encode: Encode,
        *,
        sampling: Sampling = "mean",
        batch_size: int = 4,
        workers: int = WORKERS,
        on_progress: Progress | None = None,
    ) -> MemoryLatents:
        """Encodes every image once, and its mirror image where flip_aug shows it. Raises UserError naming a file that
        cannot be read or of which the VAE makes NaN."""
        wanted = variants(dataset)
        found: dict[Variant, Stored] = {}
        batches = batches_of_one_size(dataset, wanted, batch_size)
        for variant, stored in encoded(dataset, batches, encode, workers=workers):
            key = f"{dataset.items[variant.item].path} {variant.mirrored}"
            if variant.hidden != hiding.SEEN:
                key += f" {variant.hidden}"
            found[variant] = reduced(stored, sampling, key)
            if on_progress is not None:
                on_progress(len(found), len(wanted))
        return cls(found)


class TextStore(Protocol):
    """Where the states of captions are kept."""

    def __contains__(self, caption: object) -> bool: ...

    def __getitem__(self, caption: str) -> TextStates: ...

    def chunks(self, captions: Sequence[str], batch_size: int) -> list[list[str]]:
        """The captions in the portions in which they are to be added."""
        ...

    def add(self, states: Mapping[str, TextStates]) -> None: ...


class MemoryTexts(dict[str, TextStates]):
    """In the host's memory."""

    def chunks(self, captions: Sequence[str], batch_size: int) -> list[list[str]]:
        return [list(captions[i : i + batch_size]) for i in range(0, len(captions), batch_size)]

    def add(self, states: Mapping[str, TextStates]) -> None:
        self.update(states)


class TextCache:
    """The text states of each distinct caption. Those that were not prepared are encoded when they are asked for, and
    only the `recent` latest of them are kept: captions whose tags are shuffled hardly ever come again."""

    def __init__(
        self, encode: EncodeText, *, store: TextStore | None = None, batch_size: int = 16, recent: int = 256
    ) -> None:
        self._encode = encode
        self._store: TextStore = MemoryTexts() if store is None else store
        self._batch_size = batch_size
        self._recent = recent
        self._passing: dict[str, TextStates] = {}  # the oldest first

    def prepare(self, captions: Iterable[str], on_progress: Progress | None = None) -> None:
        """Encodes the captions that are not there yet, to keep."""
        missing = sorted(caption for caption in set(captions) if caption not in self._store)
        done = 0
        for chunk in self._store.chunks(missing, self._batch_size):
            states: dict[str, TextStates] = {}
            for start in range(0, len(chunk), self._batch_size):
                states |= self._encoded(chunk[start : start + self._batch_size])
                done = done + len(chunk[start : start + self._batch_size])
                if on_progress is not None:
                    on_progress(done, len(missing))
            self._store.add(states)

    def has(self, captions: Sequence[str]) -> bool:
        """Whether all of them were prepared, so that `states` only reads, which any thread may do."""
        return all(caption in self._store for caption in captions)

    def states(self, captions: Sequence[str]) -> TextStates:
        """The states of a batch of captions, joined, on the CPU."""
        missing = sorted({c for c in captions if c not in self._store and c not in self._passing})
        if missing:
            self._passing |= self._encoded(missing)
        found = TextStates.cat([self._store[c] if c in self._store else self._passing[c] for c in captions])
        while len(self._passing) > self._recent:
            del self._passing[next(iter(self._passing))]
        return found

    def _encoded(self, captions: Sequence[str]) -> dict[str, TextStates]:
        states = self._encode(captions).to("cpu")
        # Cloned: a row of a larger tensor would keep all of it alive.
        return {c: states.row(row).map(lambda tensor: tensor.detach().clone()) for row, c in enumerate(captions)}
