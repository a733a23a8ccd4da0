"""OneTrainer's optimizers: the name here, and what their arguments are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.config.foreign.onetrainer.parts import is_lora
from trainer.config.foreign.outcome import Outcome, carried, changed, missing, unneeded
from trainer.config.foreign.values import Values


@dataclass(frozen=True)
class Optimizer:
    """`names`: its argument and the one here. `betas`, `eps`: what they are there where only some are given. `unasked`:
    what OneTrainer hands on by itself, by the names here."""

    ours: str
    names: Mapping[str, str] = field(default_factory=dict)
    betas: tuple[float, ...] = ()
    eps: tuple[float, ...] = ()
    unasked: Mapping[str, Any] = field(default_factory=dict)


_DECAY = {"weight_decay": "weight_decay"}
_ADAM = {**_DECAY, "eps": "eps", "amsgrad": "amsgrad"}
_SGD = {**_DECAY, "momentum": "momentum", "dampening": "dampening", "nesterov": "nesterov"}
_FINDING = {**_DECAY, "d0": "d0", "growth_rate": "growth_rate"}
_FINDING_ADAM = {**_FINDING, "eps": "eps", "use_bias_correction": "bias_correction"}
_FREE = {**_DECAY, "r": "r", "weight_lr_power": "weight_lr_power"}
_USUAL = (0.9, 0.999)

OPTIMIZERS = {
    "ADAM": Optimizer("adam", _ADAM, _USUAL),
    "ADAM_8BIT": Optimizer("adam8bit", _ADAM, _USUAL),
    "ADAMW": Optimizer("adamw", _ADAM, _USUAL),
    "ADAMW_8BIT": Optimizer("adamw8bit", _ADAM, _USUAL),
    "SGD": Optimizer("sgd", _SGD),
    "SGD_8BIT": Optimizer("sgd8bit", {n: n for n in _SGD if n != "nesterov"}),  # which the class forgets
    "LION": Optimizer("pytorch_optimizer.Lion", _DECAY, (0.9, 0.99)),
    "LION_8BIT": Optimizer("lion8bit", _DECAY, (0.9, 0.999)),
    "ADAGRAD": Optimizer("adagrad", {**_DECAY, "eps": "eps", "lr_decay": "lr_decay"}),
    "RMSPROP": Optimizer("rmsprop", {**_DECAY, "eps": "eps", "alpha": "alpha", "momentum": "momentum"}),
    "AdEMAMix": Optimizer("ademamix", {**_DECAY, "eps": "eps", "alpha": "alpha"}, (0.9, 0.999, 0.9999)),
    "AdEMAMix_8BIT": Optimizer("ademamix8bit", {**_DECAY, "eps": "eps", "alpha": "alpha"}, (0.9, 0.999, 0.9999)),
    "PRODIGY": Optimizer(
        "prodigy",
        {**_FINDING_ADAM, "safeguard_warmup": "safeguard_warmup", "d_coef": "d_coef", "beta3": "beta3"},
        _USUAL,
    ),
    "DADAPT_ADAM": Optimizer("dadaptadam", {**_FINDING_ADAM, "decouple": "weight_decouple"}, _USUAL),
    "DADAPT_ADAN": Optimizer("dadaptadan", {**_FINDING, "eps": "eps", "no_prox": "no_prox"}, (0.98, 0.92, 0.99)),
    "DADAPT_ADA_GRAD": Optimizer(
        "dadaptadagrad", {**_FINDING, "eps": "eps", "momentum": "momentum"}, unasked={"eps": 0.0}
    ),
    "DADAPT_SGD": Optimizer("dadaptsgd", {**_FINDING, "momentum": "momentum"}),
    "DADAPT_LION": Optimizer("dadaptlion", {**_DECAY, "d0": "d0"}, _USUAL, unasked={"betas": [0.9, 0.999]}),
    "SCHEDULE_FREE_ADAMW": Optimizer("schedulefreeadamw", {**_FREE, "eps": "eps"}, _USUAL),
    "SCHEDULE_FREE_SGD": Optimizer("schedulefreesgd", {**_FREE, "momentum": "momentum"}),
    "ADAFACTOR": Optimizer(
        "transformers.optimization.Adafactor",
        {**_DECAY, "clip_threshold": "clip_threshold", "decay_rate": "decay_rate", "beta1": "beta1",
         "scale_parameter": "scale_parameter", "relative_step": "relative_step", "warmup_init": "warmup_init"},
        eps=(1e-30, 1e-3),
    ),
    "CAME": Optimizer("came", {**_DECAY, "eps": "eps1", "eps2": "eps2"}, (0.9, 0.999, 0.9999)),
    "LAMB": Optimizer("lamb", {**_DECAY, "eps": "eps"}, _USUAL, unasked={"eps": 1e-8}),
}  # fmt: skip
# What a preset without the key leaves off, which the class here has on.
_OFF = {"ADAFACTOR": ("scale_parameter", "relative_step")}


def named(values: Values, _name: str) -> Outcome:
    """optimizer.optimizer."""
    name = values.text("optimizer.optimizer")
    known = OPTIMIZERS.get(name)
    if known is None:
        return missing(f"there is no {name} here")
    off = {known.names[n]: values.flag(f"optimizer.{n}") for n in _OFF.get(name, ())}
    unasked = {n: v for n, v in known.unasked.items() if n not in _given(values, known)}
    return carried({"optimizer.name": known.ours} | {f"optimizer.args.{k}": v for k, v in {**off, **unasked}.items()})


def _given(values: Values, known: Optimizer) -> set[str]:
    """The arguments that the file sets, by their names here."""
    given = {ours for name, ours in known.names.items() if values.has(f"optimizer.{name}")}
    return given | ({"betas"} if any(values.has(f"optimizer.beta{n}") for n in (1, 2)) else set())


def argument(values: Values, name: str) -> Outcome:
    """Any other key of optimizer{}."""
    key, kind = name.partition(".")[2], values.text("optimizer.optimizer")
    known = OPTIMIZERS.get(kind)
    if known is None or not values.has(name):
        return unneeded("not set")
    if key in ("beta1", "beta2", "beta3") and len(known.betas) >= int(key[-1]):
        given = [values.number(f"optimizer.beta{n + 1}") for n in range(len(known.betas))]
        betas = [usual if b is None else b for b, usual in zip(given, known.betas, strict=True)]
        return carried({"optimizer.args.betas": betas})
    if key in ("eps", "eps2") and known.eps:
        given = [values.number(f"optimizer.{n}") for n in ("eps", "eps2")]
        eps = [usual if e is None else e for e, usual in zip(given, known.eps, strict=True)]
        return carried({"optimizer.args.eps": eps})
    if known.names.get(key):
        value = values[name]
        return unneeded("without a limit") if value == "inf" else carried({f"optimizer.args.{known.names[key]}": value})
    if key == "decouple" and kind == "PRODIGY" and not values.flag(name) and values.number("optimizer.weight_decay"):
        return missing("always true here")
    if key == "slice_p" and kind == "PRODIGY" and values.number(name) != 1:
        return changed({}, "Prodigy looks at all numbers here, not at every slice_p-th")
    return unneeded(f"{kind} does not read it, or it changes memory and speed only")


def fused(values: Values, name: str) -> Outcome:
    if not values.flag(name) or is_lora(values):
        return unneeded("off, or a LoRA's gradients are small")
    return changed({"training.fused_backward": True, "training.max_grad_norm": 0.0}, "gradients are not clipped then")


def clipping(values: Values, name: str) -> Outcome | float:
    """clip_grad_norm; null = off."""
    if values.flag("optimizer.fused_back_pass") and not is_lora(values):
        return changed({"training.max_grad_norm": 0.0}, "not together with fused_back_pass")
    if name in values.given and values.given[name] is None:
        return changed({"training.max_grad_norm": 0.0}, "off")
    return values.number(name) or 0.0
