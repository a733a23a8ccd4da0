"""Sees every call of torch from Python: says where tensors lie, moves them, and refuses what a card refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from tests.simulated_device.card import DEVICE, HOST, Card, TwoDevicesError
from tests.simulated_device.nested import tensors_in
from tests.simulated_device.places import caller

Handler = Callable[[Card, Callable[..., Any], Any, Any], Any]


class Calls(TorchFunctionMode):
    def __init__(self, card: Card) -> None:
        super().__init__()
        self._card = card

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = _HANDLERS.get(func, _ordinary)
        return handler(self._card, func, args, kwargs or {})


def real(device: Any) -> torch.device:
    """A device as tensors name it. Raises RuntimeError for a card that is not there."""
    found = torch.device(device) if not isinstance(device, int) else torch.device("cuda", device)
    if found.type != "cuda":
        return found
    if found.index not in (None, 0):
        raise RuntimeError(f"CUDA error: invalid device ordinal ({found})")
    return DEVICE


def _ordinary(card: Card, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    asked = None if kwargs.get("device") is None else real(kwargs["device"])
    tensors = tensors_in((args, kwargs))
    there = any(map(card.on_device, tensors))
    _check_generator(kwargs, DEVICE if asked == DEVICE or (asked is None and there) else HOST)
    if asked == DEVICE:
        kwargs = {**kwargs, "device": HOST}
    pinned = kwargs.get("pin_memory")
    if pinned:
        kwargs = {**kwargs, "pin_memory": False}
    given = {t.untyped_storage()._cdata for t in tensors if not t.is_meta}
    result = func(*args, **kwargs)
    for tensor in tensors_in(result):
        if tensor.is_meta:
            continue
        if asked is None and tensors:
            if there and card.device_of(tensor) != DEVICE and tensor.untyped_storage()._cdata not in given:
                card.put(tensor)
        elif asked == DEVICE:
            card.put(tensor)
        else:
            card.to_host(tensor)
            if pinned:
                card.pin(tensor)
    return result


def _check_generator(kwargs: Any, device: torch.device) -> None:
    generator = kwargs.get("generator")
    if isinstance(generator, torch.Generator) and generator.device.type != device.type:
        raise TwoDevicesError(
            f"Expected a '{device.type}' device type for generator but found '{generator.device.type}': {caller()}"
        )


# Asking.


def _device(card: Card, func: Any, args: Any, kwargs: Any) -> torch.device:
    return card.device_of(args[0])


def _is_cuda(card: Card, func: Any, args: Any, kwargs: Any) -> bool:
    return card.device_of(args[0]) == DEVICE


def _is_cpu(card: Card, func: Any, args: Any, kwargs: Any) -> bool:
    return card.device_of(args[0]) == HOST


def _get_device(card: Card, func: Any, args: Any, kwargs: Any) -> int:
    return 0 if card.on_device(args[0]) else -1


def _is_pinned(card: Card, func: Any, args: Any, kwargs: Any) -> bool:
    return card.is_pinned(args[0])


# Reading.


def _numpy(card: Card, func: Any, args: Any, kwargs: Any) -> Any:
    if card.on_device(args[0]):
        raise TypeError(f"can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first: {caller()}")
    card.check_read(args[0])
    return func(*args, **kwargs)


def _tolist(card: Card, func: Any, args: Any, kwargs: Any) -> Any:
    if card.on_device(args[0]):
        card.wait("numbers are read")
    card.check_read(args[0])
    with _disable_current_modes():
        return func(*args, **kwargs)


# Moving.


def _to(card: Card, func: Any, args: Any, kwargs: Any) -> Tensor:
    tensor, *rest = args
    flags = [one for one in rest if isinstance(one, bool)]
    given = dict(zip(("non_blocking", "copy"), flags, strict=False)) | kwargs
    for one in rest:
        if isinstance(one, Tensor):
            given["other"] = one
        elif isinstance(one, torch.dtype):
            given["dtype"] = one
        elif one is not None and not isinstance(one, bool):
            given["device"] = one
    device, dtype, other = given.get("device"), given.get("dtype"), given.get("other")
    if other is not None:
        device, dtype = card.device_of(other), other.dtype
    return moved(
        card,
        tensor,
        card.device_of(tensor) if device is None else real(device),
        dtype or tensor.dtype,
        given.get("non_blocking", False),
        given.get("copy", False),
        given.get("memory_format"),
    )


def moved(
    card: Card,
    tensor: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    non_blocking: bool = False,
    copy: bool = False,
    layout: torch.memory_format | None = None,
) -> Tensor:
    """The tensor on that device; itself where nothing changes."""
    here = card.device_of(tensor)
    if "meta" in (here.type, device.type):
        return Tensor.to(tensor, device, dtype, copy=copy, memory_format=layout)
    if here == device:
        return Tensor.to(tensor, dtype=dtype, copy=copy, memory_format=layout)
    if here == HOST:
        card.sent(tensor, non_blocking=non_blocking)
    # The graph of autograd records it; neither the copy nor a change of type counts as an operation of a device.
    with _disable_current_modes():
        result = Tensor.to(tensor, dtype=dtype, copy=True, memory_format=layout)
    if device == DEVICE:
        card.put(result)
    else:
        if non_blocking:
            card.pin(result)  # torch takes page-locked memory for such a copy
        card.fetched(result, non_blocking=non_blocking)
    return result


def _cpu(card: Card, func: Any, args: Any, kwargs: Any) -> Tensor:
    return moved(card, args[0], HOST, args[0].dtype)


def _cuda(card: Card, func: Any, args: Any, kwargs: Any) -> Tensor:
    device = args[1] if len(args) > 1 else kwargs.get("device")
    return moved(
        card,
        args[0],
        DEVICE if device is None else real(device),
        args[0].dtype,
        kwargs.get("non_blocking", False),
    )


def _pin_memory(card: Card, func: Any, args: Any, kwargs: Any) -> Tensor:
    tensor = args[0]
    if card.on_device(tensor):
        raise RuntimeError(f"cannot pin 'torch.cuda' tensors, only dense CPU tensors can be pinned: {caller()}")
    if card.is_pinned(tensor):
        return tensor
    with torch.no_grad(), _disable_current_modes():
        result = tensor.clone()
    card.pin(result)
    return result


def _given_numbers(card: Card, func: Any, args: Any, kwargs: Any) -> Tensor:
    """torch.tensor and its kin make it on the host and send it with a blocking copy."""
    device = None if kwargs.get("device") is None else real(kwargs["device"])
    kwargs = {name: value for name, value in kwargs.items() if name != "device"}
    if isinstance(args[0], Tensor) and func is not torch.tensor:
        dtype = kwargs.get("dtype") or args[0].dtype
        return moved(card, args[0], card.device_of(args[0]) if device is None else device, dtype)
    made = func(*args, **kwargs)
    if device == torch.device("meta"):
        return made.to(device)
    card.to_host(made)
    return made if device in (None, HOST) else moved(card, made, DEVICE, made.dtype)


def _deepcopy(card: Card, func: Any, args: Any, kwargs: Any) -> Tensor:
    """torch copies the storage, which on a card is a copy from the device to the device."""
    with _disable_current_modes():
        result = func(*args, **kwargs)
    if card.on_device(args[0]):
        card.put(result)
        card.launch("copy_")
    return result


def _set_gradient(card: Card, func: Any, args: Any, kwargs: Any) -> Any:
    owner, gradient = args
    if gradient is not None and not card.is_neutral(gradient) and card.device_of(owner) != card.device_of(gradient):
        raise TwoDevicesError(f"assigned grad has data located on a different device: {caller()}")
    return func(*args, **kwargs)


def _nothing(card: Card, func: Any, args: Any, kwargs: Any) -> None:
    return None


_HANDLERS: dict[Any, Handler] = {
    Tensor.device.__get__: _device,
    Tensor.is_cuda.__get__: _is_cuda,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: _is_cpu,  # type: ignore[attr-defined]
    Tensor.get_device: _get_device,
    Tensor.is_pinned: _is_pinned,
    Tensor.numpy: _numpy,
    Tensor.__array__: _numpy,
    Tensor.tolist: _tolist,
    Tensor.to: _to,
    Tensor.cpu: _cpu,
    Tensor.cuda: _cuda,
    Tensor.pin_memory: _pin_memory,
    Tensor.__deepcopy__: _deepcopy,
    Tensor.record_stream: _nothing,
    Tensor.grad.__set__: _set_gradient,  # type: ignore[union-attr]
    torch.tensor: _given_numbers,
    torch.as_tensor: _given_numbers,
    torch.asarray: _given_numbers,
}
