"""The new word that ai-toolkit trains, alone or beside a network."""

from __future__ import annotations

from typing import Any

from trainer.config.foreign.outcome import Outcome, changed, missing, unneeded
from trainer.config.foreign.values import Values

KEYS = ("embeddings.words", "embeddings.vectors")


def trains(values: Values) -> bool:
    return bool(values.under("embedding."))


def trigger(values: Values) -> str:
    """The word, which stands in every caption there."""
    return values.text("embedding.trigger") if trains(values) else ""


def words(values: Values) -> dict[str, Any]:
    if not trains(values):
        return {}
    name = trigger(values)
    return {
        "embeddings.words": {name: values.text("embedding.init_words")},
        "embeddings.vectors": {name: values.whole("embedding.tokens")},
        "embeddings.lr": values.number("train.embedding_lr") or values.number("train.lr"),
    }


def outcome(values: Values, name: str) -> Outcome:
    """embedding.trigger, tokens, init_words."""
    sets = {key: value for key, value in words(values).items() if key in KEYS}
    return changed(sets, "first words of another number of tokens are an error here, and cut off or filled up there")


def form(values: Values, name: str) -> Outcome:
    """save_format."""
    return unneeded("always .safetensors here")


def masked(values: Values, name: str) -> Outcome:
    return missing("see preservation.words") if values.has(name) else unneeded("not set")
