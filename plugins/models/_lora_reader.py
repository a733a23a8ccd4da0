"""What diffusers' loader makes of a LoRA file, seen as its users do: in the layers of a pipeline that has loaded it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.utils import logging as transformers_logging

from plugins.models._modules import Network
from trainer.batch import DOWN, UP, AdapterWeights
from trainer.files.tensor_file import read_header


def reads(path: Path) -> bool:
    """Whether diffusers reads a file whole: of DoRA it drops the magnitudes, LoHa and the like it refuses."""
    return all(name.endswith((DOWN, UP, ".alpha")) for name in read_header(path).shapes)


def read(path: Path, networks: Mapping[str, Network], pipeline_of: Callable[[dict[str, Network]], Any]) -> (
    dict[str, AdapterWeights]
):  # fmt: skip
    """By "part.module", every layer that the file changes, with the scale that diffusers applies to it.

    networks: by part, only their classes and configs count; pipeline_of: makes a pipeline of such networks.
    """
    shells = {part: shell(network) for part, network in networks.items()}
    with _quiet():
        pipeline_of(shells).load_lora_weights(str(path))
    return {f"{part}.{name}": found for part, root in shells.items() for name, found in _changes(root)}


def shell(network: Network) -> Network:
    """A network of the same shape whose weights take no memory: each is one number, seen many times."""
    kind = type(network)
    with torch.device("meta"):
        made = kind.from_config(dict(network.config)) if hasattr(kind, "from_config") else kind(network.config)
    for module in made.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            thin = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
            setattr(module, name, nn.Parameter(thin, False) if isinstance(tensor, nn.Parameter) else thin)
    return made


def _changes(root: nn.Module) -> Iterator[tuple[str, AdapterWeights]]:
    layers: Iterator[tuple[str, Any]] = ((n, m) for n, m in root.named_modules() if isinstance(m, LoraLayer))
    for name, layer in layers:
        adapter = layer.active_adapters[0]
        down, up = layer.lora_A[adapter].weight.detach(), layer.lora_B[adapter].weight.detach()
        yield name, AdapterWeights({DOWN: down, UP: up}, layer.scaling[adapter] * down.shape[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading tells of every layer on the way, on a progress bar and in warnings that are no news for our files."""
    level, bars = diffusers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        diffusers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
