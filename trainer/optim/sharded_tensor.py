"""What a process holds of a tensor that several processes share (torch's DTensor); plain tensors pass as they are."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """The part of this process, in the same memory, outside autograd."""
    held = tensor.detach()
    return held.to_local() if isinstance(held, DTensor) else held


def whole(tensor: Tensor) -> Tensor:
    """All of it, outside autograd. All processes have to ask for a shared tensor at the same time."""
    held = tensor.detach()
    return held.full_tensor() if isinstance(held, DTensor) else held


def shared_as(values: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, which every process has, split and placed as `model` is; nothing is exchanged."""
    if not isinstance(model, DTensor):
        return values
    return distribute_tensor(values.to(model.device), model.device_mesh, model.placements, src_data_rank=None)


def joined_as(part: Tensor, model: Tensor) -> Tensor:
    """What the processes hold of something that is split as `model` is, as one tensor; nothing is exchanged."""
    if not isinstance(model, DTensor):
        return part
    return DTensor.from_local(
        part.to(model.device), model.device_mesh, model.placements, shape=model.shape, stride=model.stride()
    )
