"""[lora]: the adapters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from trainer import registry
from trainer.config.schema.base import Section, key

_KINDS = {name: registry.find("adapters", name) for name in registry.names("adapters")}
# The plain one first: it is the usual one.
METHODS = sorted((name for name, kind in _KINDS.items() if kind.trains), key=lambda name: not _KINDS[name].plain)
_OWN = " ".join(
    f"{name}: {', '.join(f'{n} ({field.description})' for n, field in kind.Settings.model_fields.items())}."
    for name, kind in _KINDS.items()
    if kind.trains and kind.Settings is not None
)


def _trained(name: Any) -> Any:
    if isinstance(name, str) and name in _KINDS and not _KINDS[name].trains:
        told = f"{_KINDS[name].title} is read, merged and drawn with, but not trained here"
        raise ValueError(f"one of {', '.join(METHODS)}; {told}")
    return name


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"a regular expression ({error})") from None
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]
if TYPE_CHECKING:
    Method: TypeAlias = str
else:
    Method = Annotated[Literal[tuple(METHODS)], BeforeValidator(_trained)]


class LoraSettings(Section):
    rank: int = key(16, "Rank of linear layers and 1x1 convolutions.", ge=1, le=4096, basic=True)
    alpha: float = key(16.0, "The adapter is scaled by alpha / rank.", gt=0)
    conv_rank: int = key(0, "Rank of 3x3 convolutions in the ResNets (LoCon); 0 = none.", ge=0, le=4096)
    conv_alpha: float = key(1.0, "alpha of the 3x3 convolutions.", gt=0)
    dropout: float = key(0.0, "Share of an adapter's inputs dropped in training.", ge=0, lt=1)
    max_norm: float = key(
        0.0,
        "After each step adapters whose change of a layer is longer than this are shrunk to it, against burnt "
        "pictures; 0 = never, 1 is usual.",
        ge=0,
    )
    rank_dropout: float = key(0.0, "Share of an adapter's ranks dropped in training, sample by sample.", ge=0, lt=1)
    module_dropout: float = key(0.0, "Share of steps in which an adapter is left out as a whole.", ge=0, lt=1)
    method: Method = key(
        METHODS[0],
        f"The kind of adapter: {'; '.join(_KINDS[name].summary for name in METHODS)}.",
    )
    ranks: dict[str, Annotated[int, Field(ge=0, le=4096)]] = key(
        {},
        'Other ranks for blocks by the beginning of their names, e.g. {"unet.down_blocks" = 8}; 0 = no adapter. '
        "alpha / rank stays.",
    )
    layers: list[str] = key(
        [],
        'Adapt only layers whose dotted name holds one of these, e.g. ["attn1", "attn2", "self_attn"] for attention '
        "alone; empty = all that rank and conv_rank speak of.",
    )
    exclude: list[Pattern] = key(
        [],
        "Regular expressions for whole dotted names of layers, with the part in front, that get no adapter, e.g. "
        '["unet\\\\.(down|mid)_.*", ".*\\\\.ff\\\\..*"].',
    )
    include: list[Pattern] = key([], "The same for layers that get one although exclude names them.")
    rslora: bool = key(
        False,
        "Scale adapters by alpha / sqrt(rank) (rsLoRA), so that larger ranks learn as fast; the alpha in the file is "
        "larger in return, and right for every program.",
    )
    start: Literal["zero", "pissa", "olora"] = key(
        "zero",
        "What new adapters begin as: no change; the largest directions of the layer's weight (PiSSA); or the first of "
        "its QR decomposition (OLoRA). Both are taken off the layer in return; the file has twice the rank, and is for "
        "the base as it is.",
    )
    args: dict[str, Any] = key({}, f"Settings of the kind alone. {_OWN}")
    init_from: str = key(
        "",
        "A LoRA file to go on from: ours, kohya's, LyCORIS', OneTrainer's, diffusers' or peft's. The layers it adapts, "
        "kind, ranks and alphas are the file's; an alpha that is set replaces its, and keeps the change.",
        path="file",
    )
    init_untrained: Literal["freeze", "leave_out"] = key(
        "freeze",
        "What init_from has for parts that do not train, such as a text encoder, or of kinds that cannot: 'freeze' "
        "lets it act unchanged in training and samples and saves it with the result, 'leave_out' does without.",
    )
