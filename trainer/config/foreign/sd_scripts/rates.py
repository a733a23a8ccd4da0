"""What trains and how fast: sd-scripts' learning rates, only-flags and text encoder keys together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.config.foreign.outcome import Outcome, carried, unneeded
from trainer.config.foreign.values import BadValueError, Values

_PRESET = "network_args.preset"  # LyCORIS' choice of layers; some have none of the text encoders


@dataclass(frozen=True)
class Rates:
    """0 = does not train. `text` holds a rate for each text encoder, or one for all."""

    network: float
    text: tuple[float, ...]


def is_lora(values: Values) -> bool:
    """Whether something small trains beside the base."""
    return any(kind in values.context.script for kind in ("network", "textual_inversion", "leco"))


def rates(values: Values) -> Rates:
    """The rates that its scripts arrive at."""
    usual = values.number("learning_rate") or 0.0
    if "textual_inversion" in values.context.script:
        return Rates(0.0, (0.0,))
    if is_lora(values):
        return _of_lora(values, usual)
    if values.context.script == "train_db.py":
        stopped = (values.whole("stop_text_encoder_training") or 0) < 0
        return Rates(usual, (0.0 if stopped else _else(values, "learning_rate_te", usual),))
    if not values.flag("train_text_encoder"):
        return Rates(usual, (0.0,))
    if values.context.script == "sdxl_train.py":
        return Rates(usual, tuple(_else(values, f"learning_rate_te{n}", usual) for n in (1, 2)))
    return Rates(usual, (_else(values, "learning_rate_te", usual),))


def _of_lora(values: Values, usual: float) -> Rates:
    """networks.lora takes the first of several text encoder rates; a rate of 0 leaves its part out."""
    network = _else(values, "unet_lr", usual)
    text = _first(values, usual)
    if "leco" in values.context.script:  # the UNet's alone
        return Rates(network, (0.0,))
    if values.flag("network_train_text_encoder_only"):
        network = 0.0
    alone = values.text("network_module").startswith("lycoris") and values.text(_PRESET).startswith("unet-")
    return Rates(network, (0.0 if values.flag("network_train_unet_only") or alone else text,))


def _else(values: Values, name: str, usual: float) -> float:
    found = values.number(name)
    return usual if found is None else found


def _first(values: Values, usual: float) -> float:
    found = values.words("text_encoder_lr")
    try:
        return float(found[0]) if found else usual
    except (TypeError, ValueError):
        raise BadValueError("text_encoder_lr", values["text_encoder_lr"], "numbers") from None


def ours(values: Values) -> dict[str, Any]:
    found = rates(values)
    sets: dict[str, Any] = {"training.unet": found.network > 0, "training.text_encoder": any(found.text)}
    if any(found.text):
        first, different = found.text[0], len(set(found.text)) > 1
        if different:
            names = ("text_encoder", "text_encoder_2")
            sets |= {f"optimizer.rates.{n}": rate for n, rate in zip(names, found.text, strict=True)}
        else:
            sets["optimizer.text_encoder_lr"] = first
    sets["optimizer.lr"] = found.network or max(found.text) or values.number("learning_rate")
    stop = values.whole("stop_text_encoder_training") or 0
    if stop > 0 and values.context.script == "train_db.py":
        sets["training.text_encoder_until"] = stop
    return sets


def usual(values: Values, name: str) -> Outcome:
    """learning_rate: of what has no rate of its own."""
    found, sets = rates(values), ours(values)
    own = {"optimizer.lr": values.has("unet_lr"), "optimizer.text_encoder_lr": values.has("text_encoder_lr")}
    if not is_lora(values) or "textual_inversion" in values.context.script:
        return carried({"optimizer.lr": sets["optimizer.lr"], "training.unet": found.network > 0})
    mine = {key: sets[key] for key, has_own in own.items() if not has_own and key in sets}
    if not found.network:
        mine.pop("optimizer.lr", None)
    return carried(mine) if mine else unneeded("unet_lr and text_encoder_lr come first")
