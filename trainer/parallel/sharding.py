"""Splits the weights of a network between processes, and brings them together where they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from trainer.optim import sharded_tensor

UNIT = 2**26  # numbers that are brought together at once: 128 MB in bfloat16


class Shards:
    """Each process holds a part of every weight, of its gradient and of its optimizer's state (PyTorch's FSDP2, after
    ZeRO: Rajbhandari et al. 2020, arXiv 1910.02054). Weights are brought together for the moment that they are used.

    Adapters are small: each process has them whole, as in DDP, and only the frozen weights around them are split.
    """

    sharded = True

    def __init__(
        self,
        accelerator: Accelerator,
        parts: Iterable[nn.Module],
        *,
        whole: Iterable[nn.Parameter] = (),
        compute: torch.dtype | None = None,
        release: bool = True,
    ) -> None:
        """parts: what is split; whole: parameters in them that are not; compute: what weights travel as, None = as
        they are kept; release: whether a unit's weights are given up between its forward and its backward pass."""
        self._accelerator = accelerator
        self._copied = list(whole)
        self._release = release
        self._together = False
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
        self._units: list[FSDPModule] = []
        self._parts = list(parts)
        for part in self._parts:
            for unit in (*units(part, set(self._copied)), part):
                kind = type(unit)
                fully_shard(
                    unit,
                    mesh=mesh,
                    mp_policy=policy,
                    reshard_after_forward=release,
                    ignored_params=set(self._copied),
                )
                assert isinstance(unit, FSDPModule)
                _call_as(type(unit), kind)
                self._units.append(unit)

    @property
    def described(self) -> str:
        count = self._accelerator.num_processes
        return f"{count} processes, each with a part of the weights, gradients and optimizer states (FSDP)"

    def wrap(self, network: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """The network as it is, under autocast: its parts exchange what they need by themselves."""
        ready = self._accelerator.prepare_model(network, device_placement=False, evaluation_mode=True)
        return ready, self._accelerator.prepare_optimizer(optimizer)

    def accumulating(self) -> AbstractContextManager[None]:
        """Gradients are exchanged with every micro-batch: whole ones would need the memory that sharding saves."""
        return nullcontext()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._accelerator.backward(loss)
        learning = [p for p in self._copied if p.requires_grad]
        if last and learning:
            self._exchange(learning)

    @torch.no_grad()
    def _exchange(self, learning: Sequence[nn.Parameter]) -> None:
        """The mean of the gradients that FSDP knows nothing of."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
        means = self._accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "mean")
        for weight, mean in zip(learning, means.split([g.numel() for g in gradients]), strict=True):
            weight.grad = mean.view_as(weight)

    def own_update(self) -> None:
        return None

    @contextmanager
    def whole(self) -> Iterator[None]:
        """In the precision in which they calculate."""
        if self._together:
            yield
            return
        self._bring_together()
        try:
            yield
        finally:
            self._split()

    @contextmanager
    def whole_on_host(self) -> Iterator[None]:
        together = self._together
        if together:  # their copies for calculating may be rounded
            self._split()
        held = [
            (module, name, weight)
            for part in self._parts
            for module in part.modules()
            for name, weight in module.named_parameters(recurse=False)
            if isinstance(weight, DTensor)
        ]
        try:
            for module, name, weight in held:
                value = sharded_tensor.whole(weight)
                if self._accelerator.is_main_process:
                    setattr(module, name, nn.Parameter(value.to("cpu"), requires_grad=weight.requires_grad))
            yield
        finally:
            for module, name, weight in held:
                setattr(module, name, weight)
            if together:
                self._bring_together()

    def _bring_together(self) -> None:
        for unit in self._units:
            unit.unshard()
            unit.set_reshard_after_forward(False, recurse=False)
        self._together = True

    def _split(self) -> None:
        for unit in self._units:
            unit.set_reshard_after_forward(self._release, recurse=False)
            unit.reshard()
        self._together = False


def _call_as(kind: type, other: type) -> None:
    """`fully_shard` makes classes of its own; those who look a module up by its class's name find it nevertheless."""
    kind.__name__, kind.__qualname__, kind.__module__ = other.__name__, other.__qualname__, other.__module__


def units(part: nn.Module, without: set[nn.Parameter]) -> list[nn.Module]:
    """The modules of a part whose weights are brought together one after another: the largest that are not above
    `UNIT`, or a quarter of the part. What is too small to be worth an exchange of its own belongs to the part."""
    limit = min(UNIT, _numbers(part, without) // 4)
    return [unit for unit in _below(part, limit, without) if _numbers(unit, without) > limit // 64]


def _below(module: nn.Module, limit: int, without: set[nn.Parameter]) -> Iterator[nn.Module]:
    for child in module.children():
        container = isinstance(child, (nn.ModuleList, nn.ModuleDict))  # which are never called themselves
        if (container or _numbers(child, without) > limit) and any(True for _ in child.children()):
            yield from _below(child, limit, without)
        else:
            yield child


def _numbers(module: nn.Module, without: set[nn.Parameter]) -> int:
    return sum(p.numel() for p in module.parameters() if p not in without)
