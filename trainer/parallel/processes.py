"""How the processes of a run share its training: each with the whole network, or each with a part of its weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.optim.update import Update


class Processes(Protocol):
    """Every method is called by all processes at the same time."""

    sharded: bool  # whether a forward or a backward pass needs all of them

    @property
    def described(self) -> str:
        """Who has what, for the log; empty where there is one process."""
        ...

    def wrap(self, network: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Both as the loop uses them."""
        ...

    def accumulating(self) -> AbstractContextManager[None]:
        """Around a micro-batch that is not the last of its step: its gradients need not be exchanged."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """The backward pass of a micro-batch; after the `last` of a step gradients are the mean over all processes."""
        ...

    def own_update(self) -> Update | None:
        """What ends a step, where gradients are not in the reach of the loop; None = the usual. After `wrap`."""
        ...

    def whole(self) -> AbstractContextManager[None]:
        """Inside, each process can run the network's parts by itself, to sample or to measure."""
        ...

    def whole_on_host(self) -> AbstractContextManager[None]:
        """Inside, the parts of the main process hold whole weights as they train, to be saved; none may run."""
        ...


class Copies:
    """Each process has the whole network (DDP), or there is only one process."""

    sharded = False

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._network: nn.Module | None = None

    @property
    def described(self) -> str:
        count = self._accelerator.num_processes
        return f"{count} processes, each with the whole network (DDP)" if count > 1 else ""

    def wrap(self, network: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        self._network, optimizer = self._accelerator.prepare(network, optimizer)
        return self._network, optimizer

    def accumulating(self) -> AbstractContextManager[None]:
        without: AbstractContextManager[None] = self._accelerator.no_sync(self._network)
        return without

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._accelerator.backward(loss)

    def own_update(self) -> None:
        return None

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def whole_on_host(self) -> AbstractContextManager[None]:
        return nullcontext()
