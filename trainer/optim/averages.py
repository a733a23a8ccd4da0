"""The weights that are saved, sampled and measured, where they are not the trained ones: averages over the steps.

Either an exponential moving average, or what a schedule-free optimizer shows in its eval mode
(Defazio et al. 2024, arXiv 2405.15682), or the trained weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.optim.sharded_tensor import joined_as, local, shared_as

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # whole numbers by their bytes


class Averages:
    """The averages of one run's trained weights."""

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        decay: float = 0.0,
        every: int = 1,
        *,
        on_cpu: bool = False,
    ) -> None:
        """decay 0 = no moving average; every: steps between its updates; on_cpu: it lies in the host's memory."""
        self._weights, self._optimizer, self._every = dict(weights), optimizer, every
        self._average = Average(list(self._weights.values()), decay, on_cpu=on_cpu) if decay else None
        self._applied = 0
        self.training_mode()

    def update(self, step: int) -> None:
        """Called after each finished step, not while averages are applied."""
        assert not self._applied, "the weights are the averages now"
        if self._average is not None and step % self._every == 0:
            self._average.update()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the modules hold the averages; after it exactly, bit for bit, what they held before.

        Takes no memory of the device: for samples and saves there may be none left.
        """
        self._applied += 1
        try:
            with ExitStack() as changes:
                if self._applied == 1 and self._is_schedule_free:
                    changes.enter_context(self._shown_by_the_optimizer())
                if self._applied == 1 and self._average is not None:
                    changes.enter_context(self._average.shown())
                yield
        finally:
            self._applied -= 1

    @contextmanager
    def _shown_by_the_optimizer(self) -> Iterator[None]:
        """The optimizer's own way back to its training mode rounds; the copies in the host's memory do not."""
        held = [local(weight) for weight in self._weights.values()]
        before = [weight.to("cpu", copy=True) for weight in held]
        try:
            self._optimizer.eval()  # type: ignore[attr-defined]
            yield
        finally:
            self.training_mode()
            with torch.no_grad():
                for weight, old in zip(held, before, strict=True):
                    weight.copy_(old)

    def training_mode(self) -> None:
        if self._is_schedule_free:
            self._optimizer.train()  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Everything to continue exactly; empty when there is no average. Not to be had while they are applied."""
        assert not self._applied, "the averages may be the weights now"
        if self._average is None:
            return {}
        pairs = zip(self._weights.items(), self._average.now(), strict=True)
        shadows = {name: joined_as(shadow, weight) for (name, weight), shadow in pairs}
        return {"updates": self._average.updates, "shadows": shadows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._average is None or not state:
            return
        self._average.updates = state["updates"]
        for shadow, (name, weight) in zip(self._average.now(), self._weights.items(), strict=True):
            shadow.copy_(local(shared_as(state["shadows"][name], weight)))

    @property
    def _is_schedule_free(self) -> bool:
        """Whether the optimizer keeps other weights for use than for training."""
        kind = type(getattr(self._optimizer, "optimizer", self._optimizer))
        return callable(getattr(kind, "eval", None)) and callable(getattr(kind, "train", None))


class Average:
    """The exponential moving average of some weights, in float32: the rest of a bfloat16 is worth 0.4 %, so that an
    average in it would stand still.

    In the host's memory it is one update behind: the weights travel while the next steps run.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float, *, on_cpu: bool) -> None:
        self.updates = 0
        self._weights, self._decay = weights, decay
        self._shadows = [local(w).to("cpu" if on_cpu else w.device, torch.float32, copy=True) for w in weights]
        self._coming: list[Tensor] | None = None  # copies on their way, and when they are there
        self._there: torch.cuda.Event | None = None

    def update(self) -> None:
        """Takes the weights as they are now into the average."""
        self._take()
        self.updates += 1
        pairs = list(zip(self._shadows, self._weights, strict=True))
        if any(w.device.type != "cuda" or s.device == w.device for s, w in pairs):  # events are CUDA's alone
            self._mix([local(w).to(s.device) for s, w in pairs])
            return
        held = [local(w) for w in self._weights]
        self._coming = [torch.empty(w.shape, dtype=w.dtype, pin_memory=True) for w in held]
        for copy, weight in zip(self._coming, held, strict=True):
            copy.copy_(weight, non_blocking=True)
        self._there = torch.cuda.Event()
        self._there.record()

    def now(self) -> list[Tensor]:
        """The averages after the last update."""
        self._take()
        return self._shadows

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the weights hold the averages, and where both are of one type the averages the weights."""
        self._take()
        with ExitStack() as changes:
            for shadow, weight in zip(self._shadows, self._weights, strict=True):
                changes.enter_context(_exchanged(local(weight), shadow))
            yield

    def _take(self) -> None:
        if self._coming is not None and self._there is not None:
            self._there.synchronize()
            self._mix(self._coming)
            self._coming = None

    @torch.no_grad()
    def _mix(self, weights: Sequence[Tensor]) -> None:
        """The decay rises as (1 + n) / (10 + n) until it reaches its value, as in diffusers and OneTrainer: early steps
        do not keep the start alive, and the first update takes the weights as they are."""
        n = self.updates - 1
        decay = min(self._decay, (1 + n) / (10 + n)) if n else 0.0
        torch._foreach_lerp_(self._shadows, [w.float() for w in weights], 1 - decay)


@contextmanager
def _exchanged(weight: Tensor, shadow: Tensor) -> Iterator[None]:
    """Inside, the weight holds what the shadow holds; afterwards both are, bit for bit, as they were."""
    if weight.dtype == shadow.dtype:
        _exchange(weight, shadow)
        try:
            yield
        finally:
            _exchange(weight, shadow)
        return
    before = weight.to("cpu", copy=True)
    weight.copy_(shadow)
    try:
        yield
    finally:
        weight.copy_(before)


@torch.no_grad()
def _exchange(one: Tensor, other: Tensor) -> None:
    """Swaps two tensors of one type, without memory for a third on any device."""
    if one.device != other.device:
        held = one.to("cpu", copy=True)
        one.copy_(other)
        other.copy_(held)
        return
    first, second = (t.view(_BITS[t.element_size()]) for t in (one, other))
    first.bitwise_xor_(second)
    second.bitwise_xor_(first)
    first.bitwise_xor_(second)
