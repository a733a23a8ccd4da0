"""Text states on disk, under keys of caption and text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.batch import TextStates
from trainer.data.cache import content
from trainer.data.cache.folder import filling
from trainer.data.cache.shards import ShardStore

VERSION = 1  # of everything between a caption and its states; to be raised when any of it changes its result
SHARD = 64  # captions in a shard, on average


class DiskTexts:
    """The states of captions in a folder that runs share."""

    def __init__(self, folder: Path, encoder: str) -> None:
        """`encoder`: a hash of whatever turns captions into states: weights, tokenizer, arithmetic, skipped layers."""
        self.store = ShardStore(folder)
        self._encoder = encoder

    def key(self, caption: str) -> str:
        return content.digest(VERSION, self._encoder, caption)

    def __contains__(self, caption: object) -> bool:
        return isinstance(caption, str) and self.key(caption) in self.store

    def __getitem__(self, caption: str) -> TextStates:
        return TextStates(self.store.read(self.key(caption)))

    def chunks(self, captions: Sequence[str], batch_size: int) -> list[list[str]]:
        """In future shards, cut by the keys themselves so that an interrupted cache goes on with the same shards."""
        found: list[list[str]] = [[]]
        for caption in sorted(captions, key=self.key):
            found[-1].append(caption)
            if int(self.key(caption), 16) % SHARD == 0:
                found.append([])
        return [chunk for chunk in found if chunk]

    def add(self, states: Mapping[str, TextStates]) -> None:
        """Writes one shard. Raises RunError when the disk is full."""
        entries = {self.key(caption): one.tensors for caption, one in states.items()}
        with filling(self.store.folder):
            self.store.write(entries)
