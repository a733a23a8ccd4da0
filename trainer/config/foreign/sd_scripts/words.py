"""The new word that sd-scripts' textual inversion scripts train."""

from __future__ import annotations

from typing import Any

from trainer.config.foreign.outcome import Outcome, carried, changed, unneeded
from trainer.config.foreign.values import BadValueError, Values

KEYS = ("embeddings.words", "embeddings.vectors")


def word(values: Values) -> dict[str, Any]:
    """token_string, init_word and num_vectors_per_token. Raises BadValueError without a word."""
    name = values.text("token_string")
    if not name:
        raise BadValueError("token_string", values["token_string"], "the word that is trained")
    first = values.text("init_word") or "*"
    return {"embeddings.words": {name: first}, "embeddings.vectors": {name: values.whole("num_vectors_per_token") or 1}}


def first(values: Values, name: str) -> Outcome:
    """init_word, whose tokens are repeated or cut off there until they are as many as the vectors."""
    found = {"embeddings.words": word(values)["embeddings.words"]}
    return carried(found) if values.has(name) else changed(found, "it begins at random there, and as '*' here")


def template(values: Values, name: str) -> Outcome:
    """use_object_template, use_style_template: fixed texts in the place of captions."""
    if not values.flag(name):
        return unneeded("off")
    found = {"general.caption_prefix": values.text("token_string")}
    return changed(found, "captions are kept here, with the word in front, where others take their place there")
