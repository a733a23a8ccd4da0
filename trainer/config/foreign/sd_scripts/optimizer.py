"""sd-scripts' optimizers: the name here, and their arguments where the class here calls them otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.config.foreign.outcome import Outcome, carried, changed, missing, unneeded
from trainer.config.foreign.values import BadValueError, Values, literal


@dataclass(frozen=True)
class Optimizer:
    """`names`: its argument and the one here; `idle`: arguments that are not here, at the value that is what happens
    here, None for those without effect; `args`: what its class does unasked."""

    ours: str
    names: Mapping[str, str] = field(default_factory=dict)
    idle: Mapping[str, Any] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


_QUIET = {"fsdp_in_use": None, "log_every": None}
_ADAM = {"decouple": "weight_decouple", "use_bias_correction": "bias_correction"}
_PRODIGY = {**_QUIET, "decouple": True, "slice_p": 1}
_PREPRINT = "the preprint's Adam; here the published one"

OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer("adamw"),
    "adamw8bit": Optimizer("adamw8bit"),
    "pagedadamw": Optimizer("pagedadamw"),
    "pagedadamw8bit": Optimizer("pagedadamw8bit"),
    "pagedadamw32bit": Optimizer("pagedadamw32bit"),
    "lion": Optimizer("pytorch_optimizer.Lion", idle={"use_triton": None, "decoupled_weight_decay": False}),
    "lion8bit": Optimizer("lion8bit"),
    "pagedlion8bit": Optimizer("pagedlion8bit"),
    "sgdnesterov": Optimizer("sgd", args={"momentum": 0.9, "nesterov": True}),
    "sgdnesterov8bit": Optimizer("sgdnesterov8bit"),
    "ademamix8bit": Optimizer("ademamix8bit"),
    "pagedademamix8bit": Optimizer("pagedademamix8bit"),
    "prodigy": Optimizer("prodigy", {"use_bias_correction": "bias_correction"}, _PRODIGY),
    "dadaptation": Optimizer("dadaptadam", _ADAM, _QUIET, note=_PREPRINT),
    "dadaptadampreprint": Optimizer("dadaptadam", _ADAM, _QUIET, note=_PREPRINT),
    "dadaptadam": Optimizer("dadaptadam", _ADAM, _QUIET),
    "dadaptadagrad": Optimizer("dadaptadagrad", idle=_QUIET),
    "dadaptadan": Optimizer("dadaptadan", idle=_QUIET),
    "dadaptlion": Optimizer("dadaptlion", idle=_QUIET),
    "dadaptsgd": Optimizer("dadaptsgd", idle=_QUIET),
    "adafactor": Optimizer("adafactor"),
    "adamwschedulefree": Optimizer("schedulefreeadamw"),
    "radamschedulefree": Optimizer("schedulefreeradam"),
    "sgdschedulefree": Optimizer("schedulefreesgd"),
}
_LACKING = ("dadaptadanip",)


def named(values: Values) -> str:
    """The optimizer's name in lower case; older files have a flag for two of them."""
    if values.flag("use_8bit_adam"):
        return "adamw8bit"
    if values.flag("use_lion_optimizer"):
        return "lion"
    return (values.text("optimizer_type") or "AdamW").lower()


def optimizer(values: Values, _name: str) -> Outcome:
    """optimizer_type and the two flags."""
    name = named(values)
    if name in _LACKING:
        return missing(f"there is no {values.text('optimizer_type')} here")
    known = OPTIMIZERS.get(name)
    if known is None:  # a class of torch.optim, or module.Class
        return carried({"optimizer.name": values.text("optimizer_type")})
    given = values.under("optimizer_args.")
    sets = {f"optimizer.args.{k}": v for k, v in known.args.items() if k not in given}
    found = {"optimizer.name": known.ours, **sets}
    return changed(found, known.note) if known.note else carried(found)


def older_flag(values: Values, name: str) -> Outcome:
    """Raises BadValueError beside another optimizer, as sd-scripts does."""
    if not values.flag(name):
        return unneeded("off")
    if values.has("optimizer_type") and values.text("optimizer_type").lower() != named(values):
        raise BadValueError(name, True, f"false beside optimizer_type = {values.text('optimizer_type')}")
    return optimizer(values, name)


def argument(values: Values, name: str) -> Outcome:
    """One of optimizer_args."""
    key, value = name.partition(".")[2], literal(values[name])
    known = OPTIMIZERS.get(named(values), Optimizer(""))
    if value is None:
        return unneeded("not set")
    if key in known.idle:
        if known.idle[key] in (None, value):
            return unneeded("what happens here, or changes speed or messages only")
        return missing(f"always {str(known.idle[key]).lower()} here")
    return carried({f"optimizer.args.{known.names.get(key, key)}": value})
