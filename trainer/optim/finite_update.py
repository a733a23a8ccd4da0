"""Applies an optimizer's step unless a flag on the device says that the gradients are not finite.

The host learns the flag one step late, so that it never has to wait for the device. Ways to do it:

- the fused kernels of Adam and AdamW take the flag themselves, as they do for torch's GradScaler;
- for any other optimizer the weights are put back on the device, and its state by the host before the next step, from
  a copy: that of a LoRA is small;
- where that copy would be too large the host waits for the flag.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

_SCHEDULED = {"params", "lr", "initial_lr", "name"}  # of a group: what the optimizer's own step does not change


class FiniteUpdate(Protocol):
    """A way to take a step or not. `apply` and `settle` are called in turns."""

    waits: bool  # whether each step waits for the device

    def apply(self, finite: Tensor) -> None:
        """The step, unless `finite` (a bool on the device) is false: weights then stay as they are."""
        ...

    def settle(self, finite: bool) -> None:
        """What `finite` was in the last step; afterwards the optimizer's state is as if a skipped step never was."""
        ...


def inner(optimizer: Any) -> Any:
    """The optimizer within accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def choose(optimizer: Optimizer, *, scaled: bool, small: bool, device: torch.device) -> FiniteUpdate:
    """scaled: float16's scaler decides about the step; small: a second copy of weights and states may be kept."""
    own = inner(optimizer)
    if scaled:
        return Scaled(optimizer, waits=not takes_flag(own))
    if takes_flag(own):
        return OnDevice(optimizer)
    if small and device.type == "cuda" and not getattr(own, "is_paged", False):
        return Undo(optimizer)
    return Waiting(optimizer, waits=device.type == "cuda")


def takes_flag(optimizer: Any) -> bool:
    """Whether the optimizer's kernels skip a step by themselves. Fused SGD would begin with a momentum of garbage if
    its first step were skipped."""
    return isinstance(optimizer, (Adam, AdamW)) and all(
        group.get("fused") and group["params"][0].device.type in ("cpu", "cuda") for group in optimizer.param_groups
    )


@dataclass
class Scaled:
    """float16: the scaler has the flag already."""

    optimizer: Optimizer
    waits: bool = True

    def apply(self, finite: Tensor) -> None:
        self.optimizer.step()

    def settle(self, finite: bool) -> None:
        pass


@dataclass
class Waiting:
    """Asks the device before each step."""

    optimizer: Optimizer
    waits: bool = True

    def apply(self, finite: Tensor) -> None:
        if bool(finite):
            self.optimizer.step()

    def settle(self, finite: bool) -> None:
        pass


@dataclass
class OnDevice:
    """Hands the flag to the fused kernel, as torch.amp.GradScaler does."""

    optimizer: Optimizer
    waits: bool = False

    def apply(self, finite: Tensor) -> None:
        own = inner(self.optimizer)
        if not takes_flag(own):  # a checkpoint of another device may have put other kernels into the groups
            Waiting(self.optimizer).apply(finite)
            return
        own.grad_scale, own.found_inf = None, (~finite).float()
        try:
            self.optimizer.step()
        finally:
            del own.grad_scale, own.found_inf

    def settle(self, finite: bool) -> None:
        pass


@dataclass
class Undo:
    """Takes the step, and puts weights and state back where it should not have been taken."""

    optimizer: Optimizer
    waits: bool = False
    _kept: _Flat | None = None
    _state: _Snapshot | None = None

    @torch.no_grad()
    def apply(self, finite: Tensor) -> None:
        own = inner(self.optimizer)
        weights = [p for group in own.param_groups for p in group["params"] if p.grad is not None]
        self._kept = self._kept if self._kept is not None and self._kept.fits(weights) else _Flat(weights)
        before, after = self._kept.of(0, weights), self._kept.of(1, weights)
        torch._foreach_copy_(before, weights)
        self._state = _Snapshot.of(own, self._state)
        self.optimizer.step()
        torch._foreach_copy_(after, weights)
        self._kept.select(finite)
        torch._foreach_copy_(weights, after)

    def settle(self, finite: bool) -> None:
        if self._state is not None and not finite:
            self._state.put_back(inner(self.optimizer))


@dataclass
class AtOnce:
    """As `Undo`, but what the device holds is put back behind the step itself: its copies live no longer than that."""

    optimizer: Optimizer
    waits: bool = False
    _host: _Snapshot | None = None

    @torch.no_grad()
    def apply(self, finite: Tensor) -> None:
        own = inner(self.optimizer)
        weights = [p for group in own.param_groups for p in group["params"] if p.grad is not None]
        before = [w.detach().clone() for w in weights]
        snapshot = _Snapshot.of(own, None)
        self.optimizer.step()
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(torch.where(finite, weight, old))
        for (parameter, name), old in snapshot.tensors.items():
            now = own.state[parameter][name]
            own.state[parameter][name] = now.copy_(torch.where(finite, now, old))
        self._host = _Snapshot(values=snapshot.values, groups=snapshot.groups, kept=set(snapshot.tensors))

    def settle(self, finite: bool) -> None:
        if self._host is not None and not finite:
            self._host.put_back(inner(self.optimizer))


class _Flat:
    """Two buffers over which all weights of a device and dtype are selected by a single kernel."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._shapes = [w.shape for w in weights]
        self._buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        for weight in weights:
            key = (weight.device, weight.dtype)
            size = sum(w.numel() for w in weights if (w.device, w.dtype) == key)
            if key not in self._buffers:
                self._buffers[key] = torch.empty(2, size, device=key[0], dtype=key[1])

    def fits(self, weights: Sequence[Tensor]) -> bool:
        return self._shapes == [w.shape for w in weights]

    def of(self, row: int, weights: Sequence[Tensor]) -> list[Tensor]:
        """Places for the weights in one of the buffers."""
        used = dict.fromkeys(self._buffers, 0)
        places = []
        for weight in weights:
            key = (weight.device, weight.dtype)
            places.append(self._buffers[key][row, used[key] : used[key] + weight.numel()].view(weight.shape))
            used[key] += weight.numel()
        return places

    def select(self, second: Tensor) -> None:
        """Where `second` is false the second buffer takes what the first one holds."""
        for buffer in self._buffers.values():
            torch.where(second, buffer[1], buffer[0], out=buffer[1])


@dataclass
class _Snapshot:
    """A copy of an optimizer's state: tensors on the device by value, what the host holds as it was."""

    tensors: dict[tuple[Tensor, str], Tensor] = field(default_factory=dict)
    values: dict[tuple[Tensor, str], Any] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    kept: set[tuple[Tensor, str]] = field(default_factory=set)  # tensors that are as they were already

    @classmethod
    def of(cls, optimizer: Optimizer, earlier: _Snapshot | None) -> _Snapshot:
        """earlier: one that is no longer needed, whose memory is used again."""
        made = cls(groups=[_own(group) for group in optimizer.param_groups])
        sources = []
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                key = (parameter, name)
                if isinstance(value, Tensor) and value.ndim and value.device == parameter.device:
                    old = None if earlier is None else earlier.tensors.get(key)
                    usable = old is not None and old.shape == value.shape and old.dtype == value.dtype
                    made.tensors[key] = old if old is not None and usable else torch.empty_like(value)
                    sources.append(value)
                else:
                    made.values[key] = copy.deepcopy(value)
        if sources:
            torch._foreach_copy_(list(made.tensors.values()), sources)
        return made

    def put_back(self, optimizer: Optimizer) -> None:
        for parameter, state in optimizer.state.items():
            for name in list(state):
                key = (parameter, name)
                if key in self.tensors:
                    state[name] = self.tensors[key].clone()
                elif key in self.values:
                    state[name] = copy.deepcopy(self.values[key])
                elif key not in self.kept:
                    del state[name]
        for parameter in [p for p, state in optimizer.state.items() if not state]:
            del optimizer.state[parameter]
        for group, old in zip(optimizer.param_groups, self.groups, strict=True):
            for name in group.keys() - old.keys() - _SCHEDULED:
                del group[name]
            group.update(copy.deepcopy(old))


def _own(group: dict[str, Any]) -> dict[str, Any]:
    return {name: copy.deepcopy(value) for name, value in group.items() if name not in _SCHEDULED}
