"""Sees every operation that torch carries out, in the backward pass too, and judges it as a card would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from tests.simulated_device.card import Card, TwoDevicesError
from tests.simulated_device.nested import tensors_in
from tests.simulated_device.operations import (
    aten,
    indices,
    launches,
    name_of,
    reason_to_wait,
    takes_numbers,
    written,
)
from tests.simulated_device.places import caller


class Kernels(TorchDispatchMode):
    def __init__(self, card: Card) -> None:
        super().__init__()
        self._card = card

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.copy_.default:
            return self._copy(func, args, kwargs)
        if func is aten._foreach_copy_.default:
            for target, source in zip(args[0], args[1], strict=True):
                self._travel(target, source, non_blocking=len(args) > 2 and args[2])
            return func(*args, **kwargs)
        tensors = [tensor for tensor in tensors_in((args, kwargs)) if not tensor.is_meta]
        self._check(func, args, kwargs, tensors)
        there = any(self._card.on_device(t) for t in tensors)
        if there and (reason := reason_to_wait(func, args, kwargs)):
            self._card.wait(reason)
        result = func(*args, **kwargs)
        self._settle(func, args, kwargs, tensors, result, there=there)
        if there and launches(func):
            self._card.launch(name_of(func))
        return result

    def _check(self, func: OpOverload, args: Any, kwargs: Any, tensors: list[Tensor]) -> None:
        """Raises where operands do not go together, or are not there yet."""
        changed = written(func, args, kwargs)
        for tensor in changed:
            self._card.check_write(tensor)
        if not func.is_view:
            for tensor in tensors:
                self._card.check_read(tensor)
        selecting = indices(func, args)
        if selecting and self._card.on_device(args[0]) and not all(map(self._card.on_device, selecting)):
            self._card.wait("indices of the host")
            tensors = [t for t in tensors if not any(t is index for index in selecting)]
        for together in _operands(func, args, kwargs, tensors):
            self._one_device(func, together, changed)

    def _one_device(self, func: OpOverload, tensors: list[Tensor], changed: list[Tensor]) -> None:
        there = [t for t in tensors if self._card.on_device(t)]
        others = [t for t in tensors if not self._card.on_device(t) and not self._card.is_neutral(t)]
        strangers = [t for t in others if t.ndim or not takes_numbers(func) or any(t is one for one in changed)]
        if there and strangers:
            shape = tuple(strangers[0].shape)
            raise TwoDevicesError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu "
                f"(a tensor of shape {shape} in {name_of(func)}): {caller()}"
            )

    def _settle(
        self, func: OpOverload, args: Any, kwargs: Any, tensors: list[Tensor], result: Any, *, there: bool
    ) -> None:
        """Says where the results lie."""
        card = self._card
        given = {t.untyped_storage()._cdata for t in tensors}
        for tensor in tensors_in(result):
            if tensor.is_meta or tensor.untyped_storage()._cdata in given:
                continue
            if there:
                card.put(tensor)
            elif all(card.is_neutral(t) for t in tensors):  # none at all: a new tensor
                card.leave_open(tensor)
        if there:
            for tensor in written(func, args, kwargs):
                card.put(tensor)  # one that was open

    def _copy(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        target, source, *more = args
        if not (target.is_meta or source.is_meta):
            self._travel(target, source, non_blocking=bool(more and more[0]) or kwargs.get("non_blocking", False))
        return func(*args, **kwargs)

    def _travel(self, target: Tensor, source: Tensor, *, non_blocking: bool) -> None:
        card = self._card
        if card.is_neutral(target) and card.on_device(source):
            card.put(target)
        to_device, from_device = card.on_device(target), card.on_device(source) or card.is_neutral(source)
        if to_device and from_device:
            card.launch("copy_")
        elif to_device:
            card.sent(source, non_blocking=non_blocking)
        elif card.on_device(source):
            card.check_write(target)
            card.fetched(target, non_blocking=non_blocking)
        else:
            card.check_read(source)
            card.check_write(target)


def _operands(func: OpOverload, args: Any, kwargs: Any, tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """What has to lie on one device: for operations over lists the members at the same place, else everything."""
    if not name_of(func).startswith(("_foreach_", "_fused_", "_amp_foreach_")):
        yield tensors
        return
    values = [*args, *kwargs.values()]
    lists = [v for v in values if isinstance(v, (list, tuple)) and v and isinstance(v[0], Tensor)]
    single = [v for v in values if isinstance(v, Tensor)]
    for place in range(max(map(len, lists), default=0)):
        yield [found[place] for found in lists if place < len(found)] + single
