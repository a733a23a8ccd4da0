"""`[embeddings]`: the new words that a run teaches its base."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.adapters import embeddings, lora_file
from trainer.adapters.lora_file import LoraFile
from trainer.batch import EMBEDDINGS, NewWord
from trainer.config.schema.whole import BaseConfig
from trainer.data.captions.pipeline import affixed
from trainer.data.dataset import Dataset
from trainer.errors import UserError
from trainer.optim.parameters import Window
from trainer.protocols import Family


def words_of(config: BaseConfig) -> list[NewWord]:
    asked = config.embeddings
    return [NewWord(name, init, asked.vectors.get(name, 0)) for name, init in asked.words.items()]


def teach(config: BaseConfig, family: Family) -> list[str]:
    """The family learns the run's new words; those that are in the file the run goes on from begin with its vectors.
    Returns lines for a person. Raises UserError."""
    words, start = words_of(config), _of_start(config)
    lines = []
    if words:
        if not family.embedding_keys:
            raise UserError(f"embeddings.words: {embeddings.no_words(family)} Leave it out.")
        given = {
            word.name: embeddings.for_family(family, word.name, start[word.name], "lora.init_from")
            for word in words
            if word.name in start
        }
        family.learn_words([given.get(word.name, word) for word in words])
        lines += [f"embeddings: {name!r} goes on with the vectors of {config.lora.init_from}" for name in given]
    left = [name for name in start if name not in config.embeddings.words]
    if left:
        lines.append(
            f"lora.init_from: its new words {', '.join(map(repr, left))} are not in embeddings.words: they are plain "
            "text here, and not in the result"
        )
    return lines


def _of_start(config: BaseConfig) -> Mapping[str, embeddings.Embedding]:
    path = config.lora.init_from
    return lora_file.read(Path(path)).embeddings if path and config.training.method == "lora" else {}


def rate(config: BaseConfig) -> float:
    return config.embeddings.lr or config.optimizer.lr


def windows(config: BaseConfig) -> dict[str, Window]:
    """When the vectors learn, as optimizer.windows would tell it."""
    until = config.embeddings.until
    return {EMBEDDINGS: (0, until)} if config.embeddings.words and until else {}


def lines(config: BaseConfig, family: Family, dataset: Dataset) -> list[str]:
    """What trains, and words that no caption holds."""
    if not config.embeddings.words:
        return []
    found = [f"embeddings: {embeddings.told(name, one)}" for name, one in embeddings.of_family(family).items()]
    if config.text_encoder_trains:
        found.append(
            "embeddings: the text encoder's adapters train too: these vectors belong to them, and mean little "
            "without the LoRA"
        )
    return found + unseen(config, dataset)


def unseen(config: BaseConfig, dataset: Dataset) -> list[str]:
    """A line for each word that stands in no caption."""
    texts = {
        text
        for item in dataset.items
        for text in (*(affixed(one, item.source.options) for one in item.captions), item.source.options.trigger)
    }
    return [
        f"embeddings.words: no caption that trains holds {name!r}, so its vectors learn nothing; write it into the "
        "captions, or into [[datasets.subsets]] trigger"
        for name in config.embeddings.words
        if not any(re.search(rf"(?i)(?<!\w){re.escape(name)}(?!\w)", text) for text in texts)
    ]


def learn(family: Family, lora: LoraFile | None, where: str, files: Sequence[Path]) -> list[str]:
    """Teaches the family, to draw, what files of embeddings and a LoRA hold; a file goes before the LoRA. Returns lines
    for a person. Raises UserError."""
    found = {name: (one, where) for name, one in (lora.embeddings if lora else {}).items()}
    found |= {file.stem: (embeddings.read(file), str(file)) for file in files}
    if not found:
        return []
    family.learn_words([embeddings.for_family(family, name, one, place) for name, (one, place) in found.items()])
    return [f"embedding {embeddings.told(name, one)} ({place})" for name, (one, place) in found.items()]


class Lengths:
    """Brings vectors to the usual length of their vocabulary's."""

    def __init__(self, vectors: nn.Module) -> None:
        parts: list[Any] = list(vectors.children())
        self._of: list[tuple[nn.Parameter, float]] = [(one, p.usual_length) for p in parts for one in p.parameters()]

    @torch.no_grad()
    def __call__(self) -> None:
        for vectors, length in self._of:
            vectors.copy_(_of_length(vectors, length))


def _of_length(vectors: Tensor, length: float) -> Tensor:
    """(n, E)."""
    return vectors * (length / vectors.norm(dim=1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny))
