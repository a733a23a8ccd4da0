"""What trains in OneTrainer and for how long: its parts, learning rates and schedules."""

from __future__ import annotations

import math
from typing import Any

from trainer.config.foreign.outcome import Outcome, changed, missing, unneeded
from trainer.config.foreign.values import BadValueError, Values

TEXT = ("text_encoder", "text_encoder_2")
PIECES = 40  # of a schedule that has another formula here
_SCHEDULES = {
    "CONSTANT": "constant",
    "LINEAR": "linear",
    "COSINE": "cosine",
    "COSINE_WITH_RESTARTS": "cosine",
    "COSINE_WITH_HARD_RESTARTS": "cosine_with_restarts",
    "ADAFACTOR": "constant",
}


def is_lora(values: Values) -> bool:
    """Whether something small trains beside the base."""
    return values.text("training_method") in ("LORA", "EMBEDDING")


def text_parts(values: Values) -> tuple[str, ...]:
    return TEXT if values.context.family == "sdxl" else TEXT[:1]


def scale(values: Values) -> float:
    """Of all learning rates: the square root of what the scaler counts."""
    batch, steps = values.whole("batch_size") or 1, values.whole("gradient_accumulation_steps") or 1
    counts = {"BATCH": batch, "GLOBAL_BATCH": batch, "GRADIENT_ACCUMULATION": steps}
    counts |= dict.fromkeys(("BOTH", "GLOBAL_BOTH"), batch * steps)
    return math.sqrt(counts.get(values.text("learning_rate_scaler"), 1))


def rates(values: Values) -> dict[str, Any]:
    """What trains, and how fast; each part may have a rate of its own."""
    usual = values.number("learning_rate") or 0.0
    own = {part: values.number(f"{part}.learning_rate") for part in ("unet", *text_parts(values))}
    found = {part: (usual if rate is None else rate) * scale(values) for part, rate in own.items()}
    rest = values.text("training_method") == "EMBEDDING"
    trains = {part: values.flag(f"{part}.train") and found[part] > 0 and not rest for part in found}
    text = {part: found[part] if trains[part] else 0.0 for part in text_parts(values)}
    sets: dict[str, Any] = {"training.unet": trains["unet"], "training.text_encoder": any(text.values())}
    if any(text.values()) and len(set(text.values())) == 1:
        sets["optimizer.text_encoder_lr"] = text["text_encoder"]
    elif any(text.values()):
        sets |= {f"optimizer.rates.{part}": rate for part, rate in text.items()}
    sets["optimizer.lr"] = found["unet"] if trains["unet"] or rest else max([*text.values(), 1e-6])
    return sets


def ends(values: Values) -> dict[str, Any]:
    """Until when parts train."""
    until = {part: _until(values, part) for part in ("unet", *text_parts(values))}
    trains = {part for part in until if values.flag(f"{part}.train")}
    text = [until[part] for part in text_parts(values) if part in trains]
    sets: dict[str, Any] = {}
    if text and len(set(text)) == 1 and text[0]:
        sets["training.text_encoder_until"] = text[0]
    elif any(text):
        parts = [part for part in text_parts(values) if part in trains and until[part]]
        sets |= {f"optimizer.windows.{part}": [0, until[part]] for part in parts}
    if until["unet"] and "unet" in trains:
        sets["optimizer.windows.unet"] = [0, until["unet"]]
    return sets


def _until(values: Values, part: str) -> float:
    """Steps, or a share of the run; 0 = to the end."""
    after, unit = values.number(f"{part}.stop_training_after") or 0, values.text(f"{part}.stop_training_after_unit")
    epochs = values.number("epochs") or 1
    if unit == "EPOCH" and 0 < after < epochs:
        return after / epochs
    accumulation = values.whole("gradient_accumulation_steps") or 1
    return max(1, int(after) // accumulation) if unit == "STEP" and after > 0 else 0


def stop(values: Values, name: str) -> Outcome:
    """stop_training_after, _unit."""
    part = name.partition(".")[0]
    mine = ("training.text_encoder_until", f"optimizer.windows.{part}")
    found = {key: value for key, value in ends(values).items() if key in mine}
    if part == "unet":
        found.pop("training.text_encoder_until", None)
    if not found or not values.flag(f"{part}.train"):
        return unneeded("it trains to the end, or not at all")
    return changed(found, "a share of the run, or optimizer steps")


def schedule(values: Values, _name: str) -> Outcome | str:
    """learning_rate_scheduler."""
    found = values.text("learning_rate_scheduler")
    if "SCHEDULE_FREE" in values.text("optimizer.optimizer"):
        return "constant"
    if found == "REX":
        sets = {"schedule.name": "piecewise_constant", "schedule.pieces": rex_pieces(values)}
        return changed(sets, f"its REX has d = 0.9, the one here 0.5: followed in {PIECES} pieces")
    if found not in _SCHEDULES:
        return missing(f"there is no schedule {found} here")
    return _SCHEDULES[found]


def rex_pieces(values: Values) -> list[list[float]]:
    """Its REX, d = 0.9, at the middle of each piece."""
    least = values.number("learning_rate_min_factor") or 0.0

    def factor(share: float) -> float:
        return least + (1 - least) * (1 - share) / (0.1 + 0.9 * (1 - share))

    return [[(n + 1) / PIECES, round(factor((n + 0.5) / PIECES), 4)] for n in range(PIECES)]


def shape(values: Values) -> dict[str, Any]:
    name = values.text("learning_rate_scheduler")
    found: dict[str, Any] = {"schedule.warmup": _warmup(values)}
    cycles = values.number("learning_rate_cycles") or 1
    if name == "COSINE_WITH_RESTARTS":
        found["schedule.cycles"] = cycles + 0.5  # whole waves there; here as many less a half
    if name == "COSINE_WITH_HARD_RESTARTS":
        found["schedule.cycles"] = cycles
    if name not in ("CONSTANT", "ADAFACTOR", "REX"):
        found["schedule.minimum"] = values.number("learning_rate_min_factor") or 0.0
    return found


def _warmup(values: Values) -> float:
    """Above 1 it counts micro-batches, else it is a share of the run."""
    found = values.number("learning_rate_warmup_steps") or 0.0
    if found == 1:
        raise BadValueError("learning_rate_warmup_steps", 1, "less than the whole run")
    return int(found) // (values.whole("gradient_accumulation_steps") or 1) if found > 1 else max(0.0, found)
