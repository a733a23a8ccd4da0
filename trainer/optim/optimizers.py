"""Builds an optimizer by name from torch, bitsandbytes, pytorch-optimizer or any module."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer.errors import UserError
from trainer.optim import arguments, other_names, sources, trial
from trainer.optim.dadapt_adan import DAdaptAdan
from trainer.optim.parameters import Group
from trainer.optim.sharded_tensor import shared_as
from trainer.optim.unwaiting import without_waits


def split(name: str, groups: Sequence[Group]) -> list[Group]:
    """The groups as the optimizer wants them: Muon and its kin orthogonalise the updates of matrices (and of
    convolutions), and treat all else as AdamW does (Jordan et al. 2024)."""
    if other_names.plain(name) not in sources.MATRIX:
        return list(groups)
    halves = []
    for group in groups:
        for matrices, ending in ((True, ""), (False, " vectors")):
            weights = [p for p in group.parameters if (p.ndim > 1) == matrices]
            if weights:
                options = {"use_muon": matrices}
                halves.append(replace(group, name=group.name + ending, parameters=weights, options=options))
    return halves


def build(name: str, groups: Sequence[Group], args: dict[str, Any]) -> Optimizer:
    """The optimizer over the groups. Raises UserError for an unknown name or argument.

    A name is looked up, without regard to case, here, in torch.optim, bitsandbytes.optim and pytorch-optimizer, in this
    order; a dotted one is `module.Class`. Names that sd-scripts and OneTrainer know mean what they mean there.
    """
    told = other_names.known(name)
    kind = without_waits(_find(told.ours or other_names.plain(name)))
    _refuse_unfit(kind)
    args = other_names.translated(told, {name: arguments.meant(value) for name, value in args.items()})
    _refuse_unread(kind, args)
    _refuse_misfits(kind, args)
    args = {**told.unasked, **args}
    if _asks_for_rate(kind):
        args = {"lr": groups[0].lr, **args}  # the groups' own count
    if _fused_by_default(kind, groups, args):
        args = {**args, "fused": True}
    try:
        found: Optimizer = kind([g.for_optimizer() for g in groups], **args)
    except (TypeError, ValueError, AttributeError, ImportError, NotImplementedError) as error:
        raise UserError(f"optimizer.args: {kind.__name__} refused {args}: {error}") from error
    _refuse_lost(kind, found, args)
    trial.attempt(kind, groups, args)
    return found


def _refuse_unfit(kind: type[Any]) -> None:
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise UserError(
            f"optimizer.name: {kind.__name__} asks for several passes a step, which training does not make."
        )
    sources.refuse_unfit(kind.__name__)


def _refuse_unread(kind: type[Any], args: Mapping[str, Any]) -> None:
    """Raises UserError for an argument that the class has not got, or takes and forgets."""
    names = arguments.accepted(kind)
    if names is None:
        return
    unread = [name for name in args if name not in names and not arguments.is_default(kind, name, args[name])]
    if unread:
        raise UserError(sources.unread(unread[0], kind.__name__, names))


def _refuse_misfits(kind: type[Any], args: Mapping[str, Any]) -> None:
    """Raises UserError for a value of another form than the class's own: many take any, and fail or go wrong later."""
    told = [(name, value, arguments.misfit(kind, name, value)) for name, value in args.items()]
    problems = [f"optimizer.args.{name}: found {value!r}, expected {wanted}." for name, value, wanted in told if wanted]
    if problems:
        raise UserError(problems)


def _refuse_lost(kind: type[Any], optimizer: Any, args: Mapping[str, Any]) -> None:
    """Raises UserError for an argument that the class does not name and that reached no group."""
    named = inspect.signature(kind.__init__).parameters
    if arguments.accepted(kind) is None:
        return
    for name in (n for n in args if n not in named and n not in arguments.read_at_once(kind)):
        if all(group.get(name) != args[name] for group in optimizer.param_groups):
            raise UserError(f"optimizer.args.{name}: has no effect on {kind.__name__} with these weights.")


def _asks_for_rate(kind: type[Any]) -> bool:
    rate = inspect.signature(kind).parameters.get("lr")
    return rate is not None and rate.default is inspect.Parameter.empty


def _fused_by_default(kind: type[Any], groups: Sequence[Group], args: Mapping[str, Any]) -> bool:
    """One kernel for all weights, which also skips a step by itself when asked to; torch's own default is slower."""
    if kind not in (torch.optim.Adam, torch.optim.AdamW) or {"fused", "foreach", "capturable"} & args.keys():
        return False
    return all(p.device.type in ("cpu", "cuda") for group in groups for p in group.parameters)


@torch.no_grad()
def match_layout(optimizer: Any, like: Mapping[Tensor, Tensor] | None = None) -> None:
    """Gives the states of a checkpoint, which are stored row by row, the memory layout of their weights, as fused
    kernels ask for. like: for each parameter the tensor whose layout counts, if not its own."""
    for parameter, state in optimizer.state.items():
        model = parameter if like is None else like[parameter]
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == model.shape and value.stride() != model.stride():
                state[name] = torch.empty_like(model, dtype=value.dtype, device=value.device).copy_(value)


def shared_out(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A state_dict of whole tensors, of which each process keeps what it keeps of the weights."""
    if "state" not in state:  # not torch's own form: its weights are not shared
        return dict(state)
    weights = [p for group in optimizer.param_groups for p in group["params"]]

    def placed(index: int, value: Any) -> Any:
        alike = isinstance(value, Tensor) and value.shape == weights[index].shape
        return shared_as(value, weights[index]) if alike else value

    states = {i: {name: placed(i, v) for name, v in values.items()} for i, values in state["state"].items()}
    return {**state, "state": states}


def used_rates(optimizer: Any) -> list[float]:
    """The rates of the step that comes next, group by group: those of the schedule, unless the optimizer finds its own.
    optimizer: may be in accelerate's wrapper."""
    own = getattr(optimizer, "optimizer", optimizer)
    finds = getattr(own, "used_rate", lambda group: float(group["lr"]))
    return [finds(group) for group in own.param_groups]


def found_step_size(group: Mapping[str, Any]) -> float | None:
    """The d that Prodigy and D-Adaptation find; None for other optimizers (Adafactor has a setting of that name)."""
    return float(group["d"]) if "d" in group and "beta2_decay" not in group else None


def _find(name: str) -> type[Any]:
    module_name, dot, class_name = name.rpartition(".")
    if dot:
        try:
            found = getattr(importlib.import_module(module_name), class_name, None)
        except ImportError as error:
            raise UserError(f"optimizer.name: {name!r}: cannot import {module_name!r} ({error}).") from error
        if not isinstance(found, type):
            raise UserError(f"optimizer.name: {name!r}: {module_name!r} has no class {class_name!r}.")
        return found
    # torch's Muon takes nothing but matrices.
    places = (
        (_pytorch_optimizer,) if name.lower() in sources.MATRIX else (_own, _torch, _bitsandbytes, _pytorch_optimizer)
    )
    for candidates in places:
        optimizers = candidates()
        if name.lower() in optimizers:
            return optimizers[name.lower()]
    raise sources.unknown(name)


def _classes(module: Any) -> dict[str, type[Any]]:
    return {
        n.lower(): c
        for n, c in vars(module).items()
        if isinstance(c, type) and issubclass(c, Optimizer) and c is not Optimizer
    }


def _own() -> dict[str, type[Any]]:
    from trainer.optim.adafactor import Adafactor  # transformers takes a second

    return {"adafactor": Adafactor, "dadaptadan": DAdaptAdan}


def _torch() -> dict[str, type[Any]]:
    return _classes(torch.optim)


def _bitsandbytes() -> dict[str, type[Any]]:
    try:
        import bitsandbytes.optim as module
    except ImportError:  # no wheel for this system
        return {}
    return _classes(module)


def _pytorch_optimizer() -> dict[str, type[Any]]:
    try:
        import pytorch_optimizer as module
    except ImportError:  # a bare machine
        return {}
    return _classes(module)
