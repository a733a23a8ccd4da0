"""Builds a network from its config and fills it with weights, refusing anything that does not fit exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from trainer.errors import UserError

Module = TypeVar("Module", bound=nn.Module)
Network: TypeAlias = Any  # a live module of diffusers or transformers, whose annotations know neither config nor dtype

NO_WEIGHTS: Mapping[str, Tensor] = MappingProxyType({})  # given for weights, it leaves a network on the meta device
ADAPTER_PREFIXES = ("lora_", "hada_", "lokr_")  # of the names that peft gives to adapters inside a layer
_BAD_CONFIG = (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, ArithmeticError)


def build(make: Callable[[], Any], where: str, *, empty: bool) -> Any:
    """`make()`, on the meta device when `empty`. Raises UserError naming the config file when that is impossible."""
    try:
        with torch.device("meta" if empty else "cpu"):
            return make()
    except _BAD_CONFIG as error:
        raise UserError(f"{where}: no model can be built from this ({type(error).__name__}: {error})") from error


def fill(module: Module, state: Mapping[str, Tensor], where: str, dtype: torch.dtype | None = torch.float32) -> Module:
    """Gives a module on the meta device its weights, as tensors of its own in that precision; None = the file's.

    One is read at a time, so that nothing is in memory twice. With `NO_WEIGHTS` the module stays as it is. Raises
    UserError when a weight is missing, left over or of another shape, or holds no numbers.
    """
    if state is NO_WEIGHTS:
        return module
    expected = module.state_dict()
    missing = sorted(expected.keys() - state.keys())
    surplus = sorted(state.keys() - expected.keys())
    own: dict[str, Tensor] = {}
    shapes = []
    for name, place in expected.items():
        if name not in state:
            continue
        tensor = state[name]
        if tensor.shape != place.shape:
            shapes.append(f"{name} is {list(tensor.shape)}, expected {list(place.shape)}")
        elif not (missing or surplus or shapes):
            own[name] = tensor.to(dtype or (tensor.dtype if tensor.is_floating_point() else torch.float32), copy=True)
    problems = [
        f"{where}: {len(found)} {what}, such as {found[0]}"
        for found, what in (
            (missing, "weights are missing"),
            (surplus, "weights are not of this model"),
            (shapes, "weights have another shape than the config says"),
        )
        if found
    ]
    if problems:
        raise UserError(problems)
    module.load_state_dict(own, assign=True)
    return module


def freeze(module: Module) -> Module:
    """Frozen and in eval mode, as families are loaded."""
    module.requires_grad_(False)
    return module.eval()


def move(module: nn.Module, device: torch.device | str, frozen_dtype: torch.dtype) -> None:
    """Moves a module; floating-point parameters that do not require gradients take `frozen_dtype`."""
    for parameter in module.parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype=frozen_dtype)
    module.to(device)


def base_weights(module: nn.Module) -> dict[str, Tensor]:
    """The module's own weights on the CPU under their plain names, in the precision in which they are held.

    Adapters are left out.
    """
    return {
        name.replace(".base_layer.", "."): tensor.detach().to("cpu").contiguous()
        for name, tensor in module.state_dict().items()
        if not any(part.startswith(ADAPTER_PREFIXES) for part in name.split("."))
    }


def exact(live: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`live`, but with the stored tensor wherever the live one is only its rounding.

    Names of `live` may have a leading "text_model." that those of `stored` lack.
    """

    def choose(name: str, tensor: Tensor) -> Tensor:
        original = stored.get(name.removeprefix("text_model."))
        if original is None or original.shape != tensor.shape:
            return tensor
        return original if torch.equal(original.to(tensor.dtype), tensor) else tensor

    return {name: choose(name, tensor) for name, tensor in live.items()}
