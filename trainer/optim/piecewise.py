"""One optimizer made of many, each over a piece of the weights: what a step needs at once is as large as a piece.

This is what training whole models in little memory stands on. Weights may be kept in bfloat16: each piece is widened to
float32, updated, and rounded back stochastically. And a piece may be stepped as soon as its gradients are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.errors import UserError
from trainer.optim.finite_update import AtOnce, FiniteUpdate, OnDevice, Waiting, takes_flag
from trainer.optim.optimizers import found_step_size, match_layout
from trainer.optim.parameters import Group
from trainer.optim.rounding import stochastic_round
from trainer.randomness import generator

PIECE = 2**25  # numbers: 128 MB in float32
Make = Callable[[Sequence[Group]], Optimizer]


@dataclass
class Piece:
    """Some weights of one group, and their optimizer; it acts on `acting`: the weights, or their float32 stand-ins."""

    weights: list[nn.Parameter]
    acting: list[nn.Parameter]
    optimizer: Optimizer
    update: FiniteUpdate
    place: int  # among all pieces

    @property
    def rounds(self) -> bool:
        return self.acting[0] is not self.weights[0]

    @torch.no_grad()
    def apply(self, finite: Tensor, rate: float, full: float, seed: int, step: int) -> None:
        """One step, unless `finite` is false; `full`: the rate that the schedule brought to `rate`."""
        for group in self.optimizer.param_groups:
            group["lr"], group["initial_lr"] = rate, full
        if not self.rounds:
            self.update.apply(finite)
            return
        pairs = [(w, a) for w, a in zip(self.weights, self.acting, strict=True) if w.grad is not None]
        for weight, acting in pairs:
            assert weight.grad is not None
            acting.data, acting.grad = weight.detach().float(), weight.grad.float()
        self.update.apply(finite)
        stream = generator(seed, "rounding", step, self.place, device=self.weights[0].device)
        for weight, acting in pairs:
            weight.copy_(stochastic_round(acting.detach(), stream))
            _empty(acting)


class Piecewise(Optimizer):
    """Looks like one optimizer, with the groups that it was given. `steps` is part of its state: the random rounding
    of a step is a function of (seed, step, piece)."""

    def __init__(self, groups: Sequence[Group], make: Make, *, seed: int, largest: int = PIECE) -> None:
        """make: builds the real optimizer over some groups; largest: numbers in a piece, 1 = each tensor by itself.

        Weights that are not float32 are rounded stochastically. Raises UserError for an optimizer that needs to see
        all weights at once.
        """
        super().__init__([g.for_optimizer() for g in groups], {})
        self.steps = 0
        self.finite: Tensor | None = None  # whether the next step is to be taken; None = yes
        self.in_backward = False  # whether pieces are stepped by others
        self.pieces: list[Piece] = []
        self._seed = seed
        self._group_of: list[int] = []
        for at, group in enumerate(groups):
            for weights in _split(group.parameters, largest):
                self.pieces.append(_piece(group, weights, make, len(self.pieces)))
                self._group_of.append(at)

    def apply(self, piece: Piece, finite: Tensor) -> None:
        """Steps one piece, unless `finite` is false."""
        group = self.param_groups[self._group_of[piece.place]]
        piece.apply(finite, group["lr"], group.get("initial_lr", group["lr"]), self._seed, self.steps)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """All pieces, but for those that the backward pass has stepped already; not at all where `finite` is false."""
        for piece in [] if self.in_backward else self.pieces:
            flag = torch.ones((), dtype=torch.bool, device=piece.weights[0].device)
            self.apply(piece, flag if self.finite is None else self.finite)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "pieces": [piece.optimizer.state_dict() for piece in self.pieces]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError when the pieces are others."""
        states = state_dict.get("pieces", [])
        if len(states) != len(self.pieces):
            raise ValueError(f"it holds {len(states)} pieces of weights, not {len(self.pieces)}")
        self.steps = state_dict["steps"]
        for piece, state in zip(self.pieces, states, strict=True):
            if piece.rounds:
                for weight, acting in zip(piece.weights, piece.acting, strict=True):
                    acting.data = torch.empty(0, device=weight.device)  # where its state is to go
            piece.optimizer.load_state_dict(state)
            match_layout(piece.optimizer, dict(zip(piece.acting, piece.weights, strict=True)))


@dataclass
class PiecewiseUpdate:
    """The steps of all pieces, unless the gradients are not finite."""

    optimizer: Any  # accelerate's wrapper, which the schedule watches
    waits: bool = False

    def apply(self, finite: Tensor) -> None:
        self.optimizer.optimizer.finite = finite
        self.optimizer.step()

    def settle(self, finite: bool) -> None:
        for piece in self.optimizer.optimizer.pieces:
            piece.update.settle(finite)


def _piece(group: Group, weights: list[nn.Parameter], make: Make, place: int) -> Piece:
    acting = weights
    if weights[0].dtype != torch.float32:
        acting = [nn.Parameter(w.detach().float()) for w in weights]
    optimizer = make([replace(group, parameters=acting)])
    if any(found_step_size(g) is not None for g in optimizer.param_groups):
        raise UserError(
            f"optimizer.name: {type(optimizer).__name__} finds one step size for all weights together, so it works "
            "neither with training.weight_dtype = 'bf16' nor with training.fused_backward."
        )
    if callable(getattr(type(optimizer), "eval", None)):
        raise UserError(
            f"optimizer.name: {type(optimizer).__name__} (schedule-free) moves the weights for samples and back, so it "
            "works neither with training.weight_dtype = 'bf16' nor with training.fused_backward."
        )
    if acting is not weights:
        for one in acting:
            _empty(one)
    return Piece(weights, acting, optimizer, _update(optimizer), place)


def _update(optimizer: Optimizer) -> FiniteUpdate:
    if takes_flag(optimizer):
        return OnDevice(optimizer)
    # Paged states lie in memory that a copy would pull off the GPU, and lose their pages when they are put back.
    return Waiting(optimizer) if getattr(optimizer, "is_paged", False) else AtOnce(optimizer)


def _empty(stand_in: nn.Parameter) -> None:
    stand_in.data, stand_in.grad = stand_in.data.new_empty(0), None


def _split(weights: Sequence[nn.Parameter], largest: int) -> Iterator[list[nn.Parameter]]:
    """Runs of tensors of one dtype with at most `largest` numbers, or of one tensor."""
    piece: list[nn.Parameter] = []
    for weight in weights:
        full = sum(w.numel() for w in piece) + weight.numel() > largest
        if piece and (full or piece[0].dtype != weight.dtype):
            yield piece
            piece = []
        piece.append(weight)
    if piece:
        yield piece
