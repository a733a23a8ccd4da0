"""D-Adaptation with Adan's moments (Defazio and Mishchenko 2023, arXiv 2301.07733; Xie et al. 2022, arXiv 2208.06677).

pytorch-optimizer's class of that name squares the squared differences once more, so that its step size grows on another
scale than that of the class which sd-scripts' and OneTrainer's users know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class DAdaptAdan(Optimizer):
    """The step size d grows from d0 with what the gradients, summed up, agree on. `no_prox`: weights decay before the
    step, as in AdamW, instead of being divided after it."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.02,
        no_prox: bool = False,
        d0: float = 1e-6,
        growth_rate: float = float("inf"),
    ) -> None:
        if not (d0 > 0 and eps > 0 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError("d0 and eps must be above 0, betas from 0 to below 1")
        found = {"d": d0, "weighted": 0.0}
        fixed = {"weight_decay": weight_decay, "no_prox": no_prox, "growth_rate": growth_rate}
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, **fixed, **found})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        first = self.param_groups[0]  # whose rate and d count for all, as in the original
        size = first["d"] * first["lr"]
        beta = first["betas"][2]
        seen = [self._moments(group, p, size) for group in self.param_groups for p in group["params"] if _moves(p)]
        if not seen or size <= 0:
            return
        squares, sums, length = torch.stack(seen).sum(0).tolist()
        if length == 0:
            return
        weighted = beta * first["weighted"] + (1 - beta) * squares * size**2
        found = (sums / (1 - beta) - weighted) / length
        grown = max(first["d"], min(found, first["d"] * first["growth_rate"]))
        for group in self.param_groups:
            group["weighted"], group["d"] = weighted, grown
            for p in filter(_moves, group["params"]):
                self._move(group, p, size)

    def _moments(self, group: dict[str, Any], p: Tensor, size: float) -> Tensor:
        """Updates the moments; returns (|g|^2, |s|^2, both over the denominator, and the sum of |s|), (3,)."""
        gradient, state = p.grad, self.state[p]
        assert gradient is not None
        if not state:
            state["step"] = 0
            state.update({name: torch.zeros_like(p) for name in ("s", "exp_avg", "exp_avg_diff", "exp_avg_sq")})
            state["previous"] = gradient.clone()
        beta1, beta2, beta3 = group["betas"]
        difference = gradient - state["previous"]
        ahead = gradient + beta2 * difference
        state["exp_avg"].mul_(beta1).add_(gradient, alpha=size * (1 - beta1))
        state["exp_avg_diff"].mul_(beta2).add_(difference, alpha=size * (1 - beta2))
        state["exp_avg_sq"].mul_(beta3).addcmul_(ahead, ahead, value=1 - beta3)
        state["s"].mul_(beta3).add_(gradient, alpha=size * (1 - beta3))
        state["previous"].copy_(gradient)
        state["step"] += 1
        over = state["exp_avg_sq"].sqrt().add_(group["eps"])
        s = state["s"]
        return torch.stack([(gradient**2 / over).sum(), (s**2 / over).sum(), s.abs().sum()]).double()

    def _move(self, group: dict[str, Any], p: Tensor, size: float) -> None:
        state, decay = self.state[p], group["weight_decay"] * size
        over = state["exp_avg_sq"].sqrt().add_(group["eps"])
        change = (state["exp_avg"] + group["betas"][1] * state["exp_avg_diff"]) / over
        if group["no_prox"]:
            p.mul_(1 - decay).sub_(change)
        else:
            p.sub_(change).div_(1 + decay)


def _moves(p: Tensor) -> bool:
    return p.grad is not None
