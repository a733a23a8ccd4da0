"""sd-scripts' and OneTrainer's names of optimizers and arguments, and what their classes do unasked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import UserError


@dataclass(frozen=True)
class Known:
    """`ours`: the class's name here, "" = the same; `unasked`: arguments that their class has as defaults; `names`:
    their arguments and ours; `idle`: arguments without a counterpart, at the only value that changes nothing."""

    ours: str = ""
    unasked: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    idle: Mapping[str, Any] = field(default_factory=dict)


_FOUND = {"fsdp_in_use": False, "log_every": 0}
_ADAM = {"decouple": "weight_decouple", "use_bias_correction": "bias_correction"}

# By the name in small letters without underscores, which stand for OneTrainer's.
KNOWN: dict[str, Known] = {
    "adamwschedulefree": Known("schedulefreeadamw"),
    "radamschedulefree": Known("schedulefreeradam"),
    "sgdschedulefree": Known("schedulefreesgd"),
    "sgdnesterov": Known("sgd", {"momentum": 0.9, "nesterov": True}),
    "sgdnesterov8bit": Known("sgd8bit", {"momentum": 0.9, "nesterov": True}),
    # bitsandbytes' 32-bit classes limit a step by the weight's own length: what is zero, as half of a LoRA, stays zero.
    "lamb": Known("pytorch_optimizer.Lamb"),
    "lars": Known("pytorch_optimizer.LARS"),
    # So do their 8-bit ones with small tensors, which take the 32-bit way unless told otherwise.
    "lamb8bit": Known(unasked={"min_8bit_size": 1}),
    "lars8bit": Known(unasked={"min_8bit_size": 1}),
    "lion": Known(idle={"use_triton": False, "decoupled_weight_decay": False}),
    # pytorch-optimizer's Prodigy does not put a decay that is not decoupled where prodigyopt puts it.
    "prodigy": Known(names={"use_bias_correction": "bias_correction"}, idle={**_FOUND, "slice_p": 1, "decouple": True}),
    "dadaptadam": Known(names=_ADAM, idle=_FOUND),
    "dadaptadagrad": Known(unasked={"eps": 1e-6}, idle=_FOUND),
    "dadaptadan": Known(idle=_FOUND),
    "dadaptlion": Known(unasked={"betas": (0.9, 0.99), "weight_decouple": True}, idle=_FOUND),
    "dadaptsgd": Known(unasked={"momentum": 0.0}, idle=_FOUND),
}
_PREPRINT = "an algorithm that is not here; dadaptadam is the published one"
LACKING = {
    "dadaptation": _PREPRINT,
    "dadaptadampreprint": _PREPRINT,
    "dadaptadanip": "not here; dadaptadan is its relative",
    "prodigyplusschedulefree": "not here; prodigy and schedulefreeadamw are",
    "came8bit": "not here; came is",
    **{f"{name}adv": f"not here; {name} is" for name in ("adamw", "adopt", "prodigy", "lion", "muon", "adamuon")},
    "signsgdadv": "not here; signsgd is",
    **{
        f"{name}32bit": f"bitsandbytes' and never moves a weight that is zero; {name} does" for name in ("lamb", "lars")
    },
}


def plain(name: str) -> str:
    """A name as the tables have it: ADAMW_8BIT is adamw8bit; a dotted one, module.Class, stays."""
    return name if "." in name else name.lower().replace("_", "")


def known(name: str) -> Known:
    """What is known of a name. Raises UserError for a class of those programs that has no counterpart."""
    if (why := LACKING.get(plain(name))) is not None:
        raise UserError(f"optimizer.name: {name!r} is {why}.")
    return KNOWN.get(plain(name), Known())


def translated(told: Known, args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in our names. Raises UserError for one that its counterpart here cannot follow, or given twice."""
    found: dict[str, Any] = {}
    for name, value in args.items():
        ours = told.names.get(name, name)
        if name in told.idle:
            if value != told.idle[name] and name != "log_every":
                raise UserError(f"optimizer.args.{name}: found {value!r}; here it is always {told.idle[name]!r}.")
        elif ours in found or (ours != name and ours in args):
            raise UserError(f"optimizer.args.{name}: the same as {ours}; keep one of them.")
        else:
            found[ours] = value
    return found
