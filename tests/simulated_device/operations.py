"""What torch's operations do on a card: which wait for it, which launch nothing, which take something of the host."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten

# The size of their result is known to the host only when the device is done (read in PyTorch's CUDA sources).
_WAIT = {
    "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount", "histc",
    "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "linalg_lstsq", "tensor_split",
}  # fmt: skip
_ANSWERED_BY_THE_HOST = {"is_same_size", "is_pinned", "numel", "size", "stride", "storage_offset", "dim"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_NO_KERNEL = {
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "_unsafe_view",
    "lift_fresh", "set_", "resize_", "is_same_size", "_local_scalar_dense", "record_stream",
}  # fmt: skip
# A number of the host is no operand of these.
_NO_NUMBERS = {"cat", "stack", "_fused_adamw_", "_fused_adam_", "_fused_sgd_", "_fused_adagrad_", "index_copy_"}


def name_of(operation: OpOverload) -> str:
    return str(operation._schema.name.rpartition("::")[2])


def launches(operation: OpOverload) -> bool:
    return not operation.is_view and name_of(operation) not in _NO_KERNEL


def takes_numbers(operation: OpOverload) -> bool:
    """Whether tensors of the host without dimensions may stand beside tensors of the device."""
    return name_of(operation) not in _NO_NUMBERS


def indices(operation: OpOverload, args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors that index another one; a card takes them from the host too, and waits then."""
    if name_of(operation) not in _INDEXED or len(args) < 2:
        return []
    return [index for index in args[1] if index is not None]


def reason_to_wait(operation: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What of an operation on device tensors makes the host wait, empty if nothing does."""
    name = name_of(operation)
    if name == "_local_scalar_dense":
        return "a number is read"
    if name in _WAIT or (_gives_a_number(operation) and name not in _ANSWERED_BY_THE_HOST):
        return name
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return name
    masks = [index for index in indices(operation, args) if index.dtype in (torch.bool, torch.uint8)]
    if masks and not _fills(operation, args, masks):
        return f"{name} with a mask"
    return ""


def _gives_a_number(operation: OpOverload) -> bool:
    return any(str(found.type) in ("bool", "number", "int", "float") for found in operation._schema.returns)


def _fills(operation: OpOverload, args: tuple[Any, ...], masks: list[Tensor]) -> bool:
    """One number where a single mask is true: CUDA does that without counting them."""
    accumulates = len(args) > 3 and bool(args[3])
    return "put" in name_of(operation) and not accumulates and len(masks) == 1 and args[2].numel() == 1


def written(operation: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation changes in place."""
    found: list[Tensor] = []
    for place, argument in enumerate(operation._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        values = value if isinstance(value, (list, tuple)) else [value]
        found += [one for one in values if isinstance(one, Tensor)]
    return found
