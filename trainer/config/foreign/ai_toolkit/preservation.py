"""What ai-toolkit keeps of the base: the answers about the class of the subject, and those outside of masks."""

from __future__ import annotations

from typing import Any

from trainer.config.foreign.ai_toolkit import words
from trainer.config.foreign.ai_toolkit.images import datasets
from trainer.config.foreign.values import BadValueError, Values

_ON = "train.diff_output_preservation"


def about_the_class(values: Values) -> dict[str, Any]:
    """Every trigger word stands for the one class; a dataset's own goes before the job's. Raises BadValueError."""
    if not values.flag(_ON):
        return {}
    usual = values.text("trigger_word") or words.trigger(values)
    triggers = {str(about.get("trigger_word") or usual) for about in datasets(values)}
    triggers = (triggers or {usual}) - {""}
    if not triggers:
        raise BadValueError(_ON, values[_ON], "a trigger_word beside it, which the class takes the place of")
    kind = values.text(f"{_ON}_class")
    return {
        "preservation.words": dict.fromkeys(sorted(triggers), kind),
        "preservation.weight": values.number(f"{_ON}_multiplier"),
    }


def outside(values: Values) -> dict[str, Any]:
    if not values.flag("train.inverted_mask_prior"):
        return {}
    return {"preservation.outside_mask": values.number("train.inverted_mask_prior_multiplier")}


def blank(values: Values) -> dict[str, Any]:
    """Never beside the class words there, so that the weight is that of one of them."""
    if not values.flag("train.blank_prompt_preservation"):
        return {}
    weight = values.number("train.blank_prompt_preservation_multiplier")
    return {"preservation.blank": True, "preservation.weight": weight}
