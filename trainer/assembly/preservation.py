"""What a run asks its base: how the base still answers while something is learned, and what that costs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer.adapters import injection
from trainer.assembly.material import Material
from trainer.assembly.memory import passes
from trainer.config.schema.whole import BaseConfig
from trainer.data.captions.pipeline import affixed
from trainer.data.dataset import Dataset, ImageItem
from trainer.errors import UserError
from trainer.protocols import Family
from trainer.run.results import DTYPES
from trainer.training.losses import Loss
from trainer.training.network import Base, Network, Predict
from trainer.training.preservation import Preservation, replaced

Begun = Callable[[Predict], Preservation]  # from the network that learns


def begun(config: BaseConfig, material: Material) -> Begun | None:
    """What needs the base as it is now: before a checkpoint is read into it, or anything is wrapped or compiled. None
    where nothing is kept. Raises UserError for words that no caption holds."""
    settings, dataset = config.preservation, material.dataset
    if not (settings.asked or any(source.of_base for source in dataset.sources)):
        return None
    refuse_unused_words(settings.words, dataset)
    make = partial(
        Preservation,
        loss=Loss(**config.loss.model_dump()),
        words=settings.words,
        blank=settings.blank,
        states=material.source.states,
        weight=settings.weight,
        outside=settings.outside_mask,
        share=settings.share,
    )
    if config.training.method == "lora":
        off = injection.Off(material.family)
        return lambda network: make(base=Base(network, off), network=network)
    frozen = FrozenCopy(config, material)
    return lambda network: make(base=Base(frozen.network, frozen.there), network=network)


class FrozenCopy:
    """A copy of the parts that train, in a precision and a place of its own."""

    def __init__(self, config: BaseConfig, material: Material) -> None:
        settings, placement = config.preservation, material.placement
        self._device = placement.device
        self._dtype = DTYPES[settings.copy_precision]
        lower = self._dtype if self._dtype != torch.float32 else DTYPES[config.training.precision]
        self._autocast = partial(torch.autocast, self._device.type, dtype=lower, enabled=lower != torch.float32)
        on_host = settings.copy_place == "host"
        family, self._tensors = copied(
            placement.family, material.rates, torch.device("cpu") if on_host else self._device, self._dtype
        )
        self._moves = on_host and self._device.type != "cpu"
        self.network = Network(family, placement.staying)

    @contextmanager
    def there(self) -> Iterator[None]:
        """Inside, the copy is on the device; the host's tensors stay where they are."""
        kept = [tensor.data for tensor in self._tensors] if self._moves else []
        try:
            for tensor, data in zip(self._tensors, kept, strict=False):
                tensor.data = data.to(self._device, non_blocking=True)
            with self._autocast():
                yield
        finally:
            for tensor, data in zip(self._tensors, kept, strict=False):
                tensor.data = data


def copied(
    family: Family, parts: Sequence[str] | Mapping[str, Any], place: torch.device, dtype: torch.dtype
) -> tuple[Family, list[Tensor]]:
    """The family with copies of these parts, frozen, and the copies' tensors; everything else is shared with it."""
    memo: dict[int, Any] = {id(module): module for module in (family.vae, *family.parts.values())}
    made = []
    for name in parts:
        del memo[id(family.parts[name])]
        for tensor in (*family.parts[name].parameters(), *family.parts[name].buffers()):
            wanted = dtype if tensor.is_floating_point() else tensor.dtype
            new = tensor.detach().to(place, wanted, copy=True)
            memo[id(tensor)] = nn.Parameter(new, requires_grad=False) if isinstance(tensor, nn.Parameter) else new
            made.append(memo[id(tensor)])
    return copy.deepcopy(family, memo), made


def refuse_unused_words(words: Mapping[str, str], dataset: Dataset) -> None:
    """Raises UserError for a word that stands in no caption: nothing would be kept by it, in silence."""
    problems = [
        f"preservation.words: no caption that trains holds {word!r}; write it as it stands there, or in "
        "[[datasets.subsets]] trigger."
        for word in words
        if not any(_holds(item, {word: words[word]}) for item in dataset.items)
    ]
    problems += [
        f"preservation.words: {word!r} is to be replaced by itself; name what it is one of."
        for word, other in words.items()
        if word == other
    ]
    if problems:
        raise UserError(problems)


def _holds(item: ImageItem, words: Mapping[str, str]) -> bool:
    """Whether a caption of the image may name a subject."""
    options = item.source.options
    texts = [*(affixed(one, options) for one in item.captions), options.trigger]
    return any(replaced(text, words) != text for text in texts)


def lines(config: BaseConfig, dataset: Dataset) -> list[str]:
    """What is kept and what it costs, for the console; nothing where nothing is."""
    settings, found = config.preservation, []
    often = "each step" if settings.share == 1 else f"{settings.share:.0%} of the steps"
    of_base = sum(item.source.of_base for item in dataset.items)
    if of_base:
        found.append(f"preservation: {of_base} images teach the base's own answer; a batch of them asks it once more")
    if settings.outside_mask:
        masked = sum(bool(item.mask) or item.source.alpha_mask for item in dataset.items)
        none = "" if masked else ": no image has one, so this does nothing"
        found.append(f"preservation: outside the masks of {masked} images the base answers, in {often}{none}")
    more = (1 + passes(config)) / passes(config)  # once forward, once as a step does
    cost = f"{more:.1f} times a step's passes more, and {'three times' if settings.again == 2 else 'twice'} the memory"
    if settings.words:
        named = sum(_holds(item, settings.words) for item in dataset.items)
        found.append(
            f"preservation: {named} of {len(dataset.items)} images name what {', '.join(map(repr, settings.words))} "
            f"stands for; {often} asks the base and trains a second pass: {cost} of activations"
        )
    if settings.blank:
        found.append(
            f"preservation: {often} asks the base without a caption and trains a second pass: {cost} of activations"
        )
    return found
