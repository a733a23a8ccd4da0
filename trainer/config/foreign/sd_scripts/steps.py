"""How long sd-scripts trains, and how its learning rate moves."""

from __future__ import annotations

from typing import Any

from trainer.config.foreign.outcome import Outcome, changed, missing, unneeded
from trainer.config.foreign.values import BadValueError, Values

# Its names, and the one here; those that are not listed are the same.
SCHEDULES = {
    "constant_with_warmup": "constant",
    "cosine_with_min_lr": "cosine",
    "adafactor": "constant",
}
_KNOWN = (
    "constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "warmup_stable_decay",
    "piecewise_constant", *SCHEDULES,
)  # fmt: skip


def length(values: Values) -> dict[str, Any]:
    """Epochs win over steps, there as here."""
    epochs = values.whole("max_train_epochs")
    if epochs:
        return {"training.epochs": epochs}
    return {"training.steps": values.whole("max_train_steps")}


def scheduler(values: Values, name: str) -> Outcome | str | None:
    """lr_scheduler, and lr_scheduler_type, which takes its place."""
    custom = values.text("lr_scheduler_type")
    if name == "lr_scheduler_type":
        return missing(f"{custom} is a class of another library; schedules here have names") if custom else None
    if custom:
        return unneeded("lr_scheduler_type takes its place")
    found = values.text(name).partition(":")[0].lower()
    if found not in _KNOWN:
        return missing(f"there is no schedule called {found}")
    if found == "inverse_sqrt" and not _same_root(values):
        return missing("falls from lr_scheduler_timescale steps on there, from the end of the warm-up here")
    if found == "piecewise_constant":
        return _pieces(values)
    if found == "warmup_stable_decay" and not share_or_steps(values, "lr_decay_steps"):
        return changed({"schedule.name": "constant"}, "without lr_decay_steps it never falls")
    if found == "warmup_stable_decay":
        return changed({"schedule.name": found}, "falls in a straight line here, along half a cosine wave there")
    return SCHEDULES.get(found, found)


def _same_root(values: Values) -> bool:
    scale, warmup = values.number("lr_scheduler_timescale"), values.number("lr_warmup_steps") or 0
    return scale == warmup if scale else warmup >= 1


def _pieces(values: Values) -> Outcome:
    """step_rules such as "1:10,0.1:20,0.01": the factor 1 up to step 10, and so on."""
    rules = str(values.under("lr_scheduler_args.").get("step_rules", "")).strip("'\"")
    steps = None if values.whole("max_train_epochs") else values.whole("max_train_steps")
    if not rules or not steps:
        return missing("its steps are shares of the run here; that needs lr_scheduler_args step_rules=... and steps")
    pairs = [rule.partition(":") for rule in rules.split(",")]
    pieces = [[min(1.0, int(at) / steps) if at else 1.0, float(factor)] for factor, _, at in pairs]
    return changed({"schedule.name": "piecewise_constant", "schedule.pieces": pieces}, "steps became shares of the run")


def argument(values: Values, name: str) -> Outcome:
    """One of lr_scheduler_args."""
    if name == "lr_scheduler_args.step_rules" and values.text("lr_scheduler") == "piecewise_constant":
        return _pieces(values)
    return missing("an argument of a schedule that has no counterpart here")


def shape(values: Values) -> dict[str, Any]:
    """What the schedule uses of the other keys."""
    name = values.text("lr_scheduler").lower()
    cycles = values.whole("lr_scheduler_num_cycles") or 1
    least = values.number("lr_scheduler_min_lr_ratio")
    found: dict[str, Any] = {}
    if name not in ("adafactor", "piecewise_constant"):
        found["schedule.warmup"] = share_or_steps(values, "lr_warmup_steps")
    if name == "cosine_with_restarts":
        found["schedule.cycles"] = cycles
    if name == "cosine_with_min_lr":
        found["schedule.cycles"] = (cycles + 1) / 2
    if name == "polynomial":
        found["schedule.power"] = values.number("lr_scheduler_power")
    if name in ("cosine_with_min_lr", "warmup_stable_decay") and least:
        found["schedule.minimum"] = least
    if name == "warmup_stable_decay" and share_or_steps(values, "lr_decay_steps"):
        found["schedule.decay"] = _decay(values)
    return found


def _decay(values: Values) -> float:
    """As a share of the run."""
    found = share_or_steps(values, "lr_decay_steps")
    steps = values.whole("max_train_steps") or 0
    if found >= 1 and (values.whole("max_train_epochs") or found > steps):
        raise BadValueError("lr_decay_steps", values["lr_decay_steps"], "a share of the run: its steps are not known")
    return found / steps if found >= 1 else found


def share_or_steps(values: Values, name: str) -> float:
    """Steps, or below 1 a share of the run; "10%" is a share too."""
    value = values.text(name)
    if value.endswith("%"):
        try:
            return float(value[:-1]) / 100
        except ValueError:
            raise BadValueError(name, value, "steps, a share below 1, or a percentage") from None
    found = values.number(name) or 0
    if isinstance(values[name], float) and found >= 1:
        raise BadValueError(name, values[name], "a whole number of steps: a number with a point is a share of the run")
    return int(found) if found >= 1 else found
