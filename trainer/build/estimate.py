"""What a run needs of a GPU's memory: its real networks, forward and backward, counted on torch's meta device."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainer import optimizers
from trainer.batch import Geometry, TextStates
from trainer.build.model import prepare_parts, resting_parts
from trainer.config import BaseConfig, DatasetOptions, effective
from trainer.data.encode import together
from trainer.device.checkpointing import set_level
from trainer.device.live_memory import peak
from trainer.device.placement import VAE
from trainer.network import Network
from trainer.parameters import Group
from trainer.run.results import DTYPES
from trainer.samples import prompts
from trainer.sampling import TOGETHER

META = torch.device("meta")
# Assumed, not counted: CUDA's context and kernels, the libraries' workspaces, gaps between the allocator's blocks.
RESERVED = 0.8e9
BYTES = {
    "8bit": 1.0 + 4 / 4096,
    "4bit": 0.5 + 4 / 64,
}  # of a weight: LLM.int8 has a scale for each row, NF4 for each 64


@dataclass(frozen=True)
class Estimate:
    """Bytes on the GPU."""

    weights: float  # of what steps need
    optimizer: float  # its states, and averaged weights
    step: float  # activations, gradients and whatever else a step holds at its peak
    caching: float  # everything there is while images are encoded
    sampling: float  # everything there is while samples are drawn; 0 = none are
    operations: float = 0.0  # floating-point, of one micro-batch, forward and backward; 2 for a product and its sum

    @property
    def training(self) -> float:
        return self.weights + self.optimizer + self.step

    @property
    def total(self) -> float:
        return max(self.training, self.caching, self.sampling) + RESERVED


def estimate(config: BaseConfig, family: Any, batch: tuple[int, int, int] | None = None) -> Estimate:
    """family: its networks on the meta device, of no use for anything else afterwards; batch: (B, H, W) in pixels of
    the largest one, if it is not the one of the config's resolution and batch size."""
    if config.lora.init_from:  # numbers have no part in this
        config = config.model_copy(update={"lora": config.lora.model_copy(update={"init_from": ""})})
    dtype, lower = DTYPES[config.training.precision], _autocast(config)
    everything = {**family.parts, VAE: family.vae}
    for module in everything.values():
        module.requires_grad_(False)
    prepare_parts(config, family)
    family.to(META, dtype)
    resting = resting_parts(config, family)
    staying = [name for name in (*family.parts, VAE) if name not in resting]
    network = Network(family, staying)
    network.train()
    level = config.training.gradient_checkpointing
    set_level(family.parts.values(), "off" if level == "auto" else level)
    trained = [p for part in family.parts.values() for p in part.parameters() if p.requires_grad]
    if config.training.fused_backward:
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(_free)
    cell, channels = family.latent_factor, family.vae.config.latent_channels
    shapes = [(b, channels, h // cell, w // cell) for b, h, w in ([batch] if batch else _batches(config))]
    known = [t for part in everything.values() for t in (*part.parameters(), *part.buffers())]

    def step() -> Tensor:
        shape = max(shapes, key=_numbers)
        return network(*_inputs(family, shape, live_text=not set(family.text_parts) <= set(resting))).float().mean()

    weights = _weights(config, (everything[name] for name in staying))
    pixels = max((shape[2:] for shape in shapes), key=lambda s: s[0] * s[1])
    averages = sum(p.numel() * 4.0 for p in trained) if config.ema.decay and config.ema.device != "cpu" else 0.0
    return Estimate(
        weights=weights,
        optimizer=sum(p.numel() for p in trained) * _state_bytes(config) + averages,
        step=peak(step, known, lower),
        caching=_bytes(family.vae) + _encoding(family, known, pixels) if VAE in resting else 0.0,
        sampling=_sampling(config, family, known, lower, weights, (everything[name] for name in resting)),
        operations=_operations(config, network, _inputs(family, max(shapes, key=_numbers), live_text=False)),
    )


def _numbers(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


@torch.no_grad()
def _operations(config: BaseConfig, network: Network, inputs: tuple[Any, ...]) -> float:
    """A backward pass costs one forward pass for the activations' gradients, another one where weights have gradients
    of their own, and again what is computed anew."""
    with FlopCounterMode(display=False) as counter:
        network(*inputs)
    again = {"selective": 0.5, "full": 1.0}.get(config.training.gradient_checkpointing, 0.0)
    return float(counter.get_total_flops() * (2 + (config.training.method == "full") + again))


def _free(parameter: Tensor) -> None:
    parameter.grad = None


def _autocast(config: BaseConfig) -> torch.dtype | None:
    return None if config.training.precision == "fp32" else DTYPES[config.training.precision]


def _batches(config: BaseConfig) -> list[tuple[int, int, int]]:
    """(B, H, W) as the datasets of a config ask."""
    found = []
    for dataset in config.datasets:
        options = effective(DatasetOptions, dataset, config.general)
        sides = (options.resolution,) * 2 if isinstance(options.resolution, int) else options.resolution
        found.append((options.batch_size, sides[1], sides[0]))
    return found


def _inputs(family: Any, shape: tuple[int, int, int, int], *, live_text: bool) -> tuple[Any, ...]:
    """The arguments of `Network.forward`."""
    count = shape[0]
    states = None if live_text else _like(_states(family), count)
    sizes = torch.empty(count, 2, dtype=torch.long, device=META)
    times = torch.empty(count, dtype=torch.long, device=META)
    return torch.empty(shape, device=META), times, states, ["a"] * count, Geometry(sizes, sizes, sizes)


@torch.no_grad()
def _states(family: Any) -> TextStates:
    """Of one caption."""
    found: TextStates = family.encode_text(["a"])
    return found


def _like(states: TextStates, count: int) -> TextStates:
    """Places for the states of so many captions."""
    pooled = None if states.pooled is None else torch.empty(count, *states.pooled.shape[1:], device=META)
    return TextStates(torch.empty(count, *states.hidden.shape[1:], device=META), pooled)


def _bytes(module: nn.Module) -> float:
    return float(sum(p.numel() * p.element_size() for p in module.parameters()))


def _weights(config: BaseConfig, modules: Iterable[nn.Module]) -> float:
    """Bytes, frozen linear layers counted as small as the config asks."""
    found, small = 0.0, BYTES.get(config.training.base_precision)
    for module in modules:
        found += _bytes(module)
        if small is not None:
            linear = [m for m in module.modules() if type(m) is nn.Linear and not m.weight.requires_grad]
            found -= sum(m.weight.numel() * (m.weight.element_size() - small) for m in linear)
    return found


@functools.cache
def _states_of(name: str, args: tuple[tuple[str, Any], ...]) -> float:
    """Bytes that an optimizer keeps for each trained number, seen on a small matrix after two steps."""
    weight = nn.Parameter(torch.randn(512, 512))
    optimizer = optimizers.build(name, [Group("sample", "unet", 1e-4, [weight])], dict(args))
    getattr(optimizer, "train", lambda: None)()
    for _ in range(2):
        weight.grad = torch.randn_like(weight)
        optimizer.step()
    kept = [v for v in optimizer.state[weight].values() if isinstance(v, Tensor)]
    return sum(v.numel() * v.element_size() for v in kept) / weight.numel()


def _state_bytes(config: BaseConfig) -> float:
    return _states_of(config.optimizer.name, tuple(sorted(config.optimizer.args.items())))


@torch.no_grad()
def _encoding(family: Any, known: list[Tensor], cells: tuple[int, int]) -> float:
    """Beside the VAE, in float32."""
    height, width = (side * family.latent_factor for side in cells)
    pixels = torch.empty(min(4, together(width, height)), 3, height, width, device=META)
    return peak(lambda: family.vae.encode(pixels), known, None)


@torch.no_grad()
def _sampling(
    config: BaseConfig,
    family: Any,
    known: list[Tensor],
    lower: torch.dtype | None,
    weights: float,
    resting: Iterable[nn.Module],
) -> float:
    """The larger of a denoising step with guidance and the decoding of one picture, beside all weights."""
    wanted = prompts.requests(config.samples)
    if not wanted:
        return 0.0
    channels = family.vae.config.latent_channels
    cells = (config.samples.height // family.latent_factor, config.samples.width // family.latent_factor)
    pictures = 2 * min(TOGETHER, len(wanted))  # guidance asks twice
    inputs = _inputs(family, (pictures, channels, *cells), live_text=False)
    denoising = peak(lambda: family.predict(inputs[0], inputs[1], inputs[2], inputs[4]), known, lower)
    latents = torch.empty(1, channels, *cells, device=META)
    decoding = peak(lambda: family.vae.decode(latents), known, None)
    trained = sum(p.numel() for part in family.parts.values() for p in part.parameters() if p.requires_grad)
    return weights + sum(map(_bytes, resting)) + trained * _state_bytes(config) + max(denoising, decoding)
