"""The new words that OneTrainer trains, alone (EMBEDDING) or beside something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.config.foreign.onetrainer.parts import scale
from trainer.config.foreign.outcome import Outcome, carried, changed, missing, unneeded
from trainer.config.foreign.values import Values

KEYS = ("embeddings.words", "embeddings.vectors")
NAMES = ("placeholder", "token_count", "initial_embedding_text")
_ALONE, _BESIDE = "embedding", "additional_embeddings"


def alone(values: Values) -> bool:
    return values.text("training_method") == "EMBEDDING"


def _listed(values: Values) -> list[Mapping[str, Any]]:
    """What it says of each word that trains, its defaults filled in."""
    own = [values.under(f"{_ALONE}.")] if alone(values) else []
    others = [one for one in values.words(_BESIDE) if isinstance(one, Mapping)]
    usual = {"placeholder": "<embedding>", "token_count": 1, "initial_embedding_text": "*", "train": True}
    return [usual | dict(one) for one in (*own, *others)]


def _name(one: Mapping[str, Any]) -> str:
    return str(one["placeholder"]).strip().strip("<>")


def words(values: Values) -> dict[str, Any]:
    found = _listed(values)
    if not found:
        return {}
    sets: dict[str, Any] = {
        "embeddings.words": {_name(one): str(one["initial_embedding_text"]) for one in found},
        "embeddings.vectors": {_name(one): int(one["token_count"]) for one in found if one["token_count"]},
        "embeddings.keep_norm": values.flag("preserve_embedding_norm"),
        "embeddings.bundle": values.flag("bundle_additional_embeddings"),
    }
    if (rate := values.number("embedding_learning_rate")) is not None:
        sets["embeddings.lr"] = rate * scale(values)
    return sets


def outcome(values: Values, name: str) -> Outcome:
    """embedding.* and additional_embeddings."""
    listed = _listed(values)
    if not listed or (name.startswith(f"{_ALONE}.") and not alone(values)):
        return unneeded("there are none")
    if any(one.get("is_output_embedding") for one in listed):
        return missing("words are learned where the text encoder begins, not behind it (is_output_embedding)")
    if any(not one["train"] for one in listed):
        return missing("words that do not train are not read for training (train = false)")
    if any(one.get("model_name") for one in listed):
        return missing("words begin as words of the vocabulary, or as in lora.init_from (model_name)")
    if any(one.get("stop_training_after") and one.get("stop_training_after_unit") != "NEVER" for one in listed):
        return missing("set embeddings.until for all of them (stop_training_after)")
    sets = {key: value for key, value in words(values).items() if key in ("embeddings.words", "embeddings.vectors")}
    renamed = [str(one["placeholder"]) for one in listed if _name(one) != str(one["placeholder"])]
    if renamed:
        return changed(sets, f"{', '.join(renamed)} without < and >, which no file's name has; captions may keep them")
    return carried(sets)
