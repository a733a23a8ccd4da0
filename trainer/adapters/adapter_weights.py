"""What the tensors of one adapter mean: its kind, its rank and the change that it makes to a layer's weight.

The names of the tensors are those of LoRA files below a module's name: kohya's for LoRA, LyCORIS' for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["lora", "loha", "lokr"]
DOWN, UP, MID, MAGNITUDE = "lora_down.weight", "lora_up.weight", "lora_mid.weight", "dora_scale"
LEAVES: dict[Kind, tuple[str, ...]] = {
    "lora": (DOWN, UP, MID),
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "lokr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
}
_REQUIRED: dict[Kind, tuple[tuple[str, ...], ...]] = {  # one of each group's names must be there
    "lora": ((DOWN,), (UP,)),
    "loha": (("hada_w1_a",), ("hada_w1_b",), ("hada_w2_a",), ("hada_w2_b",)),
    "lokr": (("lokr_w1", "lokr_w1_a"), ("lokr_w2", "lokr_w2_a")),
}


@dataclass(frozen=True)
class AdapterWeights:
    """One module of a LoRA file, or the live adapter of one layer."""

    tensors: Mapping[str, Tensor]  # e.g. lora_down.weight (rank, in[, kh, kw]) and lora_up.weight (out, rank[, 1, 1])
    alpha: float  # the change is scaled by alpha / rank

    @property
    def kind(self) -> Kind:
        return next(kind for kind, leaves in LEAVES.items() if any(leaf in self.tensors for leaf in leaves))

    @property
    def magnitude(self) -> Tensor | None:
        """DoRA's: the length that each output row of the weight has in the end, (out, 1[, 1, 1])."""
        return self.tensors.get(MAGNITUDE)

    @property
    def down(self) -> Tensor:
        return self.tensors[DOWN]

    @property
    def up(self) -> Tensor:
        return self.tensors[UP]

    @property
    def rank(self) -> int:
        """The inner dimension; 0 for a LoKr whose factors are both whole."""
        if self.kind == "lora":
            return int(self.down.shape[0])
        names = ("hada_w1_b", "lokr_w1_b", "lokr_w2_b")
        return next((int(self.tensors[name].shape[0]) for name in names if name in self.tensors), 0)

    @property
    def scale(self) -> float:
        """alpha / rank; 1 where there is no rank, as LyCORIS has it."""
        return self.alpha / self.rank if self.rank else 1.0


def is_complete(weights: AdapterWeights) -> bool:
    """Whether all factors of one kind, and of no other, are there."""
    leaves = set(weights.tensors) - {MAGNITUDE}
    known = any(leaf in leaves for all_leaves in LEAVES.values() for leaf in all_leaves)
    if not known or not leaves <= set(LEAVES[weights.kind]):
        return False
    return all(any(name in leaves for name in group) for group in _REQUIRED[weights.kind])


def delta(weights: AdapterWeights, shape: torch.Size | None = None) -> Tensor:
    """The change of the layer's weight, float32, without DoRA's magnitude. Raises RuntimeError for misfitting factors.

    shape: the weight's, where the factors alone don't tell it (LoHa and LoKr of convolutions keep them flat).
    """
    t = {name: tensor.float() for name, tensor in weights.tensors.items()}
    change = {"lora": _lora, "loha": _loha, "lokr": _lokr}[weights.kind](t) * weights.scale
    return change if shape is None else change.reshape(shape)


def apply(weights: AdapterWeights, base: Tensor, strength: float = 1.0) -> Tensor:
    """The layer's weight with the adapter in it, float32, of the shape of `base` and on its device.

    With a magnitude m (DoRA, Liu et al. 2024, arXiv 2402.09353, equation 5): m * (W + dW) / |W + dW| row by row; the
    strength acts on the whole difference from W.
    """
    weights = replace(weights, tensors={name: tensor.to(base.device) for name, tensor in weights.tensors.items()})
    whole = base.float()
    change = delta(weights, base.shape)
    if weights.magnitude is None:
        return whole + strength * change
    turned = whole + change
    wanted = weights.magnitude.float().reshape(-1)
    per_output = wanted.numel() == base.shape[0]
    rows = turned.flatten(1) if per_output else turned.transpose(0, 1).flatten(1)
    shape = (-1,) + (1,) * (base.ndim - 1) if per_output else (1, -1) + (1,) * (base.ndim - 2)
    turned = turned * (wanted / rows.norm(dim=1)).reshape(shape)
    return whole + strength * (turned - whole)


def is_finite(weights: AdapterWeights) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in weights.tensors.values())


def is_zero(weights: AdapterWeights) -> bool:
    """Whether the adapter changes nothing: a product with a factor that is all zeros."""
    factors = {n: not bool(t.any()) for n, t in weights.tensors.items() if n != MAGNITUDE}
    return any(factors.values()) and weights.magnitude is None


def _lora(t: Mapping[str, Tensor]) -> Tensor:
    """up @ down (Hu et al. 2021, arXiv 2106.09685, section 4.1); for a convolution the product runs over the rank, each
    kernel cell by itself. LyCORIS may keep a kernel between two 1x1 convolutions (Tucker form)."""
    down, up = t[DOWN], t[UP]
    if MID in t:
        return torch.einsum("or,rskl,si->oikl", up.flatten(1), t[MID], down.flatten(1))
    return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def _loha(t: Mapping[str, Tensor]) -> Tensor:
    """Elementwise product of two low-rank products (Hyeon-Woo et al. 2021, arXiv 2108.06098, proposition 1)."""
    halves = [_tucker(t[f"hada_t{n}"], t[f"hada_w{n}_a"], t[f"hada_w{n}_b"]) if f"hada_t{n}" in t else
              t[f"hada_w{n}_a"] @ t[f"hada_w{n}_b"] for n in (1, 2)]  # fmt: skip
    return halves[0] * halves[1]


def _lokr(t: Mapping[str, Tensor]) -> Tensor:
    """Kronecker product of a small and a (low-rank) large factor (Yeh et al. 2023, arXiv 2309.14859, section 3.2)."""
    small = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    if "lokr_w2" in t:
        large = t["lokr_w2"]
    elif "lokr_t2" in t:
        large = _tucker(t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    else:
        large = t["lokr_w2_a"] @ t["lokr_w2_b"]
    return torch.kron(small.reshape(*small.shape, *(1,) * (large.ndim - 2)), large)


def _tucker(core: Tensor, out: Tensor, inner: Tensor) -> Tensor:
    """core (r, r, kh, kw), out (r, O), inner (r, I) -> (O, I, kh, kw)."""
    return torch.einsum("ijkl,jr,ip->prkl", core, inner, out)
