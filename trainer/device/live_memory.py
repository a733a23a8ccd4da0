"""Counts the bytes that tensors hold while code runs, and gives code on the meta device CUDA's arithmetic."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

BLOCK = 512  # bytes: CUDA's allocator gives whole blocks
# torch.autocast's lists for CUDA, as far as diffusion networks use them (PyTorch's documentation of torch.amp).
LOWER = ("linear", "conv2d", "scaled_dot_product_attention")
HIGHER = ("group_norm", "layer_norm", "softmax")


class LiveMemory(TorchDispatchMode):
    """`peak`: the most bytes at one time in tensors that were made inside."""

    def __init__(self, known: Iterable[Tensor] = (), *, block: int = BLOCK) -> None:
        """known: tensors that are there already, such as weights; a view of one costs nothing. block: bytes that an
        allocator gives at least, and a multiple of."""
        super().__init__()
        self.now = 0
        self.peak = 0
        self._block = block
        self._sizes: dict[int, int] = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._see(value, given)
        return result

    def _see(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes or key in given:  # counted, or older than this
            return
        self._sizes[key] = -(-storage.nbytes() // self._block) * self._block
        self.now += self._sizes[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


class LikeCuda:
    """Casts as torch.autocast does on a GPU, and attends as the fused kernels do: no matrix of all pairs is kept.

    Inside it, functions of torch.nn.functional are exchanged: what runs again in a backward pass knows no modes.
    """

    def __init__(self, lower: torch.dtype | None = torch.bfloat16) -> None:
        """lower: autocast's precision; None = no autocast."""
        self._lower = lower
        self._copies: dict[int, Tensor] = {}  # autocast keeps those of trained weights until the forward pass ends
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        functions: dict[str, Callable[..., Any]] = {name: getattr(torch.nn.functional, name) for name in LOWER + HIGHER}
        functions["scaled_dot_product_attention"] = _attention
        dropped = mock.patch.object(torch.nn.functional, "dropout", _dropout)
        self._stack.enter_context(dropped)
        for name, function in functions.items():
            changed = function if self._lower is None else self._cast(function, name in LOWER)
            self._stack.enter_context(mock.patch.object(torch.nn.functional, name, changed))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def end_of_forward(self) -> None:
        self._copies.clear()

    def _cast(self, function: Callable[..., Any], lower: bool) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = tree_map_only(Tensor, self._lowered if lower else _raised, (args, kwargs))
            return function(*args, **kwargs)

        return run

    def _lowered(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self._lower)
        if id(tensor) not in self._copies:
            self._copies[id(tensor)] = tensor.to(self._lower)
        return self._copies[id(tensor)]


def _raised(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    found: Tensor = _Attention.apply(query, key, value)
    return found


class _Attention(torch.autograd.Function):
    """What fused attention keeps for its backward pass: q, k, v, the result and a number for each row."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = torch.empty_like(query)
        rows = query.new_empty(query.shape[:-1], dtype=torch.float32)
        context.save_for_backward(query, key, value, result, rows)
        return result

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, _ = context.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    found: Tensor = _Dropout.apply(x) if training and p else x
    return found


class _Dropout(torch.autograd.Function):
    """CUDA's keeps a byte for each number, where others keep a number of the same kind."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(torch.empty(x.shape, dtype=torch.bool, device=x.device))
        return torch.empty_like(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return torch.empty_like(gradients[0])


def peak(work: Callable[[], Any], known: Iterable[Tensor], lower: torch.dtype | None) -> int:
    """The most bytes that `work`, on the meta device, holds beside `known`."""
    with LiveMemory(known) as memory, LikeCuda(lower) as arithmetic:
        loss = work()
        arithmetic.end_of_forward()
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.backward()
    return memory.peak
