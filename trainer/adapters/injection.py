"""Puts adapters (LoRA and its kin) into the parts of a family, and reads, scales, loads and merges them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.adapters import embeddings, lora_file, starts
from trainer.adapters import peft_layers as lora_peft
from trainer.adapters.embeddings import Embedding
from trainer.adapters.naming import places
from trainer.adapters.peft_layers import ADAPTER, Settings
from trainer.adapters.quantise import is_quantised
from trainer.adapters.weights import apply, change, delta, kind_of, name_of
from trainer.batch import DOWN, UP, AdapterDropout, AdapterWeights
from trainer.errors import UserError
from trainer.files.tensor_file import read_header, read_tensors
from trainer.protocols import Family
from trainer.randomness import generator


class _MisreadError(UserError):
    """Another reader makes something else of a file than it holds."""


@dataclass(frozen=True)
class Adapter:
    """The adapter of one layer; `weights` holds the live parameters."""

    part: str  # "unet", "text_encoder", ...
    module: str  # dotted name of the layer inside its part
    key: str  # kohya's name in a LoRA file
    layer: Any  # peft's layer around the original one
    weights: AdapterWeights

    @property
    def stored(self) -> AdapterWeights:
        """As a file holds it."""
        return starts.stored(self.layer, self.weights)

    @property
    def base(self) -> Any:
        """The original layer."""
        return self.layer.get_base_layer()


def inject(
    family: Family,
    parts: Iterable[str],
    *,
    rank: int,
    alpha: float,
    conv_rank: int = 0,
    conv_alpha: float = 1.0,
    dropout: float = 0.0,
    seed: int = 0,
    method: str = "lora",
    rank_dropout: float = 0.0,
    module_dropout: float = 0.0,
    ranks: Mapping[str, int] | None = None,
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    by_root: bool = False,
    args: Mapping[str, Any] | None = None,
    start: str = "zero",
    like: Mapping[str, AdapterWeights] | None = None,
) -> list[Adapter]:
    """Adds float32 adapters, the only thing that trains in those parts afterwards, and returns them.

    rank and alpha are those of linear layers and 1x1 convolutions; conv_rank > 0 adapts the ResNets too, their 3x3
    convolutions with conv_rank and conv_alpha (kohya's rules). method: the kind of adapter. ranks: other
    ranks for blocks by the beginning of their dotted names ("unet.down_blocks.0"), with the same alpha per rank; the
    longest name counts, 0 leaves the block out. layers: only those whose dotted name holds one of these words, all
    where there are none; exclude, include: patterns of whole names of layers that get none, and of those that do after
    all. by_root: scaled by alpha / sqrt(rank). args: settings of the kind alone. start: "pissa" or "olora" = as a part
    of the layer's weight. like: modules of a file by kohya's names: a part that has some gets adapters like them and
    with their weights, for these layers alone, whatever the other settings ask. Each other adapter starts from its own
    stream, derived from `seed` and its name, as no change at all; torch's random state is left as it was. Raises
    UserError.
    """
    left_out = AdapterDropout(dropout, rank_dropout, module_dropout)
    settings = Settings(method, rank, alpha, conv_rank, conv_alpha, left_out, by_root, args or {})
    meant = Meant(layers, exclude, include)
    lora_peft.check(settings, ranks or {}, family)
    wanted = list(parts)
    given = _by_place(family, like or {})
    for part in wanted:
        targets = [name for name in family.adapter_targets(part, conv=conv_rank > 0) if meant(part, name)]
        chosen = lora_peft.like(given[part]) if part in given else (
            lora_peft.choose(part, family.parts[part], targets, settings, ranks or {})
        )  # fmt: skip
        if not chosen:
            raise UserError(f"{part}: there is nothing in it that a LoRA would adapt{meant.told()}")
        lora_peft.add(family.parts[part], chosen, settings)
    for adapter in _of(family, wanted):
        settings.kind.finish(adapter.layer, left_out)
    added = _of(family, wanted)  # once more: by now they are complete
    for adapter in added:
        _start(adapter, seed)
        if start != "zero":
            starts.begin(adapter.layer, ADAPTER, adapter.weights, start)
    if like:
        load_into(family, like, "lora.init_from", [adapter for adapter in added if adapter.part in given])
    return _of(family, wanted)


def _by_place(family: Family, modules: Mapping[str, AdapterWeights]) -> dict[str, dict[str, AdapterWeights]]:
    """Part -> dotted name of the layer -> its module."""
    found: dict[str, dict[str, AdapterWeights]] = {}
    known = places(family) if modules else {}
    for name, weights in modules.items():
        part, target = known[name]
        found.setdefault(part, {})[target] = weights
    return found


@dataclass(frozen=True)
class Meant:
    """Which of the layers that a family's LoRAs adapt get an adapter."""

    words: Sequence[str]  # of which one has to be in the name; none = all layers
    exclude: Sequence[str]  # patterns of whole names, with the part in front
    include: Sequence[str]

    def __call__(self, part: str, name: str) -> bool:
        full = f"{part}.{name}"
        if self.words and not any(word in name for word in self.words):
            return False
        left_out = any(re.fullmatch(pattern, full) for pattern in self.exclude)
        return not left_out or any(re.fullmatch(pattern, full) for pattern in self.include)

    def told(self) -> str:
        found = {"layers": self.words, "exclude": self.exclude, "include": self.include}
        given = " and ".join(f"lora.{key} = {list(value)}" for key, value in found.items() if value)
        return f" among the layers of {given}" if given else ""


def _of(family: Family, parts: Collection[str]) -> list[Adapter]:
    return [adapter for adapter in adapters(family) if adapter.part in parts]


def adapters(family: Family) -> list[Adapter]:
    """Every adapter of a family, in the order of its parts and of their modules."""
    found = []
    for part, root in family.parts.items():
        for name, layer in root.named_modules():
            if isinstance(layer, BaseTunerLayer):
                key = family.adapter_key(part, name)
                found.append(Adapter(part, name, key, layer, lora_peft.live_weights(layer)))
    return found


def layers(family: Family) -> dict[str, Any]:
    """peft's layers by kohya's names."""
    return {adapter.key: adapter.layer for adapter in adapters(family)}


def weights(family: Family) -> dict[str, AdapterWeights]:
    """What a LoRA file holds: the weights of every adapter by kohya's name, live ones where they began at zero."""
    return {adapter.key: adapter.stored for adapter in adapters(family)}


def delta_w(adapter: Adapter) -> Tensor:
    """The change that the adapter makes to its layer's weight, float32, of the weight's shape."""
    if kind_of(adapter.weights).needs_base(adapter.weights):
        return change(adapter.weights, dequantize_module_weight(adapter.base))
    return delta(adapter.stored).reshape(_shape(adapter.base))


def load_into(
    family: Family, modules: Mapping[str, AdapterWeights], where: str, live: Iterable[Adapter] | None = None
) -> None:
    """Copies the weights of a LoRA file into adapters that are in place. Raises UserError unless all of them fit.

    The names may be any that the family knows its modules by. Alphas become those of the file. live: the adapters, all
    of the family's without it.
    """
    matched = match(family, adapters(family) if live is None else live, modules)
    problems = _misfits(matched, modules, where)
    if problems:
        raise UserError(problems)
    with torch.no_grad():
        for adapter, name in matched:
            lora_peft.load(adapter.layer, modules[str(name)])
    for adapter, name in matched:
        _refuse_another_change(adapter, modules[str(name)], where)


def _refuse_another_change(adapter: Adapter, source: AdapterWeights, where: str) -> None:
    """Raises UserError where peft's layer makes something else of a file's factors than they mean."""
    kind = kind_of(source)
    if kind.plain or kind.needs_base(source):
        return
    with torch.no_grad():
        theirs = adapter.layer.get_delta_weight(ADAPTER).float()
        ours = delta(source).reshape(theirs.shape).to(theirs.device)
    if not torch.allclose(theirs, ours, rtol=1e-4, atol=1e-5 * float(ours.abs().max())):
        raise UserError(f"{where}: {adapter.key} is a form of {kind.title} that cannot be trained on")


def save(
    family: Family,
    path: Path,
    *,
    dtype: torch.dtype,
    metadata: Mapping[str, str],
    others: Mapping[str, AdapterWeights] | None = None,
    words: Mapping[str, Embedding] | None = None,
) -> None:
    """Writes all adapters as a LoRA file, `others` beside them by kohya's names, and new words, once our reader and the
    one that the family's users have (diffusers') give back the same changes. Raises UserError and keeps an older file
    otherwise."""
    modules = weights(family) | dict(others or {})

    def prove(file: Path) -> None:
        with _without_words(file) if words else nullcontext(file) as plain:
            _prove(family, plain, path, modules)

    try:
        lora_file.write(path, modules, dtype=dtype, metadata=metadata, prove=prove, words=words)
    except _MisreadError:
        # diffusers misses the alphas of the attention's layers where they differ between blocks.
        one = lora_file.with_one_alpha(modules)
        lora_file.write(path, one, dtype=dtype, metadata=metadata, prove=prove, words=words)


@contextmanager
def _without_words(file: Path) -> Iterator[Path]:
    """A copy without new words, which diffusers' reader refuses."""
    with TemporaryDirectory() as folder:
        plain = Path(folder) / "lora.safetensors"
        save_file(embeddings.split(read_tensors(file))[0], plain, read_header(file).metadata)
        yield plain


def match(
    family: Family, live: Iterable[Adapter], modules: Mapping[str, AdapterWeights]
) -> list[tuple[Adapter, str | None]]:
    """Each adapter with the name under which the file has it, or None."""
    return [
        (a, next((n for n in (a.key, *family.adapter_aliases(a.part, a.module)) if n in modules), None)) for a in live
    ]


def scaled(family: Family, strength: float) -> AbstractContextManager[None]:
    """Inside, every adapter's scale is `strength` times its own; 0 gives the base exactly."""
    return Scaled(family)(strength)


class Scaled:
    """`with scaled(strength):` for use in every step: the adapters are found once."""

    def __init__(self, family: Family) -> None:
        self._layers = [adapter.layer for adapter in adapters(family)]

    def __call__(self, strength: float) -> AbstractContextManager[None]:
        return _scaled(self._layers, strength)


@contextmanager
def _scaled(layers: Sequence[Any], strength: float) -> Iterator[None]:
    before = [layer.scaling[ADAPTER] for layer in layers]
    try:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling[ADAPTER] = scaling * strength
        with nullcontext() if strength else _off(layers):
            yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling[ADAPTER] = scaling


class Off:
    """`with off():` calls the network as it is without its adapters, as often as in every step: they are found once."""

    def __init__(self, family: Family) -> None:
        self._layers = [adapter.layer for adapter in adapters(family)]

    def __call__(self) -> AbstractContextManager[None]:
        return _off(self._layers)


@contextmanager
def _off(layers: Sequence[Any]) -> Iterator[None]:
    """By peft's flag alone: its own switch marks all adapters as training when it turns them on, also frozen ones."""
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merge(family: Family, strength: float = 1.0) -> None:
    """Adds every adapter's change to its layer's own weight, for good, and takes the adapters out.

    Raises UserError when the weights are held in 8 or 4 bits, which have no room for it.
    """
    found = adapters(family)
    if any(is_quantised(adapter.base) for adapter in found):
        raise UserError("a LoRA cannot be merged into weights of 8 or 4 bits; load the base in full precision for that")
    for adapter in found:
        weight = adapter.base.weight
        weight.data = apply(adapter.stored, weight, strength).detach().to(weight.dtype)
        parent, _, leaf = adapter.module.rpartition(".")
        setattr(family.parts[adapter.part].get_submodule(parent), leaf, adapter.base)


def _prove(family: Family, file: Path, path: Path, modules: Collection[str]) -> None:
    """Raises UserError when another reader than ours makes something else of a file with these modules."""
    theirs = family.read_lora(file)
    if theirs is None:
        return
    ours, known = lora_file.read(file).modules, places(family)
    read = {known[name]: weights for name, weights in theirs.items() if name in known}
    for name in modules:
        if known[name] not in read or not lora_file.matches(read[known[name]], ours[name]):
            raise _MisreadError(f"{path}: not written, diffusers would read {name} as another change than was trained")


def _shape(layer: Any) -> torch.Size:
    """Of the layer's weight, also where it is held packed."""
    linear = isinstance(layer, nn.Linear)
    return torch.Size([layer.out_features, layer.in_features]) if linear else layer.weight.shape


def _start(adapter: Adapter, seed: int) -> None:
    """The initial values, float32 whatever the base's precision (peft follows the base's)."""
    for name, parameter in adapter.layer.named_parameters():
        if not name.startswith("base_layer."):
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    stream = generator(seed, f"lora/{adapter.key}")
    live = lora_peft.live_weights(adapter.layer)
    kind = kind_of(live)
    adapter.layer.scaling[lora_peft.ADAPTER] = kind.scale(live)  # as readers have it, which peft may not
    for leaf, tensor in live.tensors.items():
        if leaf in kind.zero:
            tensor.data.zero_()
        elif leaf not in kind.given:
            fresh = torch.empty(tensor.shape)
            nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=stream)
            tensor.data.copy_(fresh)


def _misfits(matched: list[tuple[Adapter, str | None]], modules: Mapping[str, AdapterWeights], where: str) -> list[str]:
    missing = [adapter.key for adapter, name in matched if name is None]
    surplus = sorted(modules.keys() - {name for _, name in matched})
    found = [(adapter, modules[name]) for adapter, name in matched if name is not None]
    kinds = [
        f"{a.key} is {name_of(m.tensors)}, expected {name_of(a.weights.tensors)}"
        for a, m in found
        if not _same_kind(a.weights, m)
    ]
    shapes = [
        f"{adapter.key} has {leaf} {list(source.tensors[leaf].shape)}, expected {list(tensor.shape)}"
        for adapter, source in found
        if _same_kind(adapter.weights, source)
        for leaf, tensor in adapter.weights.tensors.items()
        if leaf in (DOWN, UP) and not lora_peft.fits(source.tensors[leaf].shape, tensor.shape)
    ]
    return [
        f"{where}: {len(lines)} {what}, such as {lines[0]}"
        for lines, what in (
            (missing, "modules of this setting are not in the file"),
            (surplus, "modules of the file are not in this setting"),
            (kinds, "modules are of another kind"),
            (shapes, "modules have another rank or shape"),
        )
        if lines
    ]


def _same_kind(live: AdapterWeights, source: AdapterWeights) -> bool:
    kind = kind_of(source)
    return kind is kind_of(live) and source.tensors.keys() <= {*kind.trainable}
