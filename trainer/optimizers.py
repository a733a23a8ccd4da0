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
from trainer.parallel.sharded_tensor import shared_as
from trainer.parameters import Group

# Names that users of kohya's sd-scripts know, where the libraries' class is called otherwise.
ALIASES = {
    "adamwschedulefree": "schedulefreeadamw",
    "sgdnesterov": "sgd",
    "sgdnesterov8bit": "sgd8bit",
    "radamschedulefree": "schedulefreeradam",
    "sgdschedulefree": "schedulefreesgd",
}


# Those that ask for what a step does not compute.
UNFIT = {"adahessian": "second derivatives", "sophiah": "second derivatives", "sparseadam": "sparse gradients"}
# Those that take matrices and everything else in groups of their own, which `split` makes.
MATRIX = ("muon", "adamuon", "normuon", "muonclip", "adago")


def split(name: str, groups: Sequence[Group]) -> list[Group]:
    """The groups as the optimizer wants them: Muon and its kin orthogonalise the updates of matrices (and of
    convolutions), and treat all else as AdamW does (Jordan et al. 2024)."""
    if name.lower() not in MATRIX:
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

    A name is looked up, without regard to case, in torch.optim, bitsandbytes.optim and pytorch-optimizer, in this
    order; a dotted one is `module.Class`.
    """
    kind = _find(name)
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise UserError(
            f"optimizer.name: {kind.__name__} asks for several passes a step, which training does not make."
        )
    if (wanted := UNFIT.get(kind.__name__.lower())) is not None:
        raise UserError(f"optimizer.name: {kind.__name__} needs {wanted}, which training does not compute.")
    known = inspect.signature(kind).parameters
    unknown = [a for a in args if a not in known or a in {"params", "lr"}]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        names = ", ".join(n for n in known if n not in {"params", "lr", "self", "kwargs"})
        raise UserError(f"optimizer.args.{unknown[0]}: {kind.__name__} has no such argument; it has: {names}.")
    if name.lower().startswith("sgdnesterov"):  # kohya's name for SGD with both
        args = {"momentum": 0.9, "nesterov": True, **args}
    if "lr" in known and known["lr"].default is inspect.Parameter.empty:
        args = {"lr": groups[0].lr, **args}  # the groups' own count
    if _fused_by_default(kind, groups, args):
        args = {**args, "fused": True}
    try:
        return kind([g.for_optimizer() for g in groups], **args)
    except (TypeError, ValueError, AttributeError, ImportError, NotImplementedError) as error:
        raise UserError(f"optimizer.args: {kind.__name__} refused {args}: {error}") from error


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
    name = ALIASES.get(name.lower(), name)
    # torch's Muon takes nothing but matrices.
    places = (_pytorch_optimizer,) if name.lower() in MATRIX else (_torch, _bitsandbytes, _pytorch_optimizer)
    for candidates in places:
        optimizers = candidates()
        if name.lower() in optimizers:
            return optimizers[name.lower()]
    raise UserError(
        f"optimizer.name: found {name!r}, expected an optimizer of torch.optim ({', '.join(sorted(_torch()))}), "
        "bitsandbytes (such as adamw8bit), pytorch-optimizer (such as prodigy, lion), or module.Class."
    )


def _classes(module: Any) -> dict[str, type[Any]]:
    return {
        n.lower(): c
        for n, c in vars(module).items()
        if isinstance(c, type) and issubclass(c, Optimizer) and c is not Optimizer
    }


def _torch() -> dict[str, type[Any]]:
    return _classes(torch.optim)


def _bitsandbytes() -> dict[str, type[Any]]:
    try:
        import bitsandbytes.optim as module
    except ImportError:  # no wheel for this system
        return {}
    return _classes(module)


def _pytorch_optimizer() -> dict[str, type[Any]]:
    import pytorch_optimizer as module

    return _classes(module)
