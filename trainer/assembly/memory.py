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

from trainer.assembly.model import prepare_parts, resting_parts
from trainer.batch import Geometry, Shown, TextStates
from trainer.config.schema.base import changed
from trainer.config.schema.data import DatasetOptions, effective
from trainer.config.schema.whole import BaseConfig
from trainer.data.cache.encode import together
from trainer.device.checkpointing import set_level
from trainer.device.live_memory import peak
from trainer.device.placement import VAE
from trainer.optim import optimizers
from trainer.optim.parameters import Group
from trainer.run.results import DTYPES
from trainer.samples import prompts
from trainer.samples.drawing import TOGETHER
from trainer.training.network import Inputs, Network

META = torch.device("meta")
# Assumed, not counted: CUDA's context and kernels, the libraries' workspaces, gaps between the allocator's blocks.
RESERVED = 0.8e9
BYTES = {
    "8bit": 1.0 + 4 / 4096,
    "4bit": 0.5 + 4 / 64,
}  # of a weight: LLM.int8 has a scale for each row, NF4 for each 64


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the GPU."""

    weights: float  # of what steps need
    optimizer: float  # its states, and averaged weights
    step: float  # activations, gradients and whatever else a step holds at its peak
    caching: float  # everything there is while images are encoded
    sampling: float  # everything there is while samples are drawn; 0 = none are
    operations: float = 0.0  # floating-point, of one micro-batch, forward and backward; 2 for a product and its sum
    forward: float = 0.0  # of them, those of a forward pass, for each pixel of a picture
    base: float = 0.0  # bytes of the whole base as the run holds it, in the host's memory at first
    average: float = 0.0  # bytes of averaged weights that lie in the host's memory
    latent: float = 0.0  # bytes that a cache in memory keeps for each pixel of an image

    @property
    def training(self) -> float:
        return self.weights + self.optimizer + self.step

    @property
    def total(self) -> float:
        return max(self.training, self.caching, self.sampling) + RESERVED


def estimate(config: BaseConfig, family: Any, batch: tuple[int, int, int] | None = None) -> MemoryEstimate:
    """family: its networks on the meta device, of no use for anything else afterwards; batch: (B, H, W) in pixels of
    the largest one, if it is not the one of the config's resolution and batch size."""
    if config.lora.init_from:  # numbers have no part in this
        config = changed(config, lora=changed(config.lora, init_from=""))
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
    cell, channels = family.latent_factor, family.latent_channels
    shapes = [(b, channels, h // cell, w // cell) for b, h, w in ([batch] if batch else _batches(config))]
    known = [t for part in everything.values() for t in (*part.parameters(), *part.buffers())]

    def step() -> Tensor:
        shape = max(shapes, key=_numbers)
        live = not set(family.text_parts) <= set(resting)
        asked = 1 + config.preservation.again  # passes whose activations are kept at once
        inputs = _inputs(family, shape, live_text=live)
        return torch.stack([network(*inputs).float().mean() for _ in range(asked)]).sum()

    def begin() -> Tensor:
        """What makes pictures to ask prompts about: prompts with and without guidance at once."""
        count, *sides = max(shapes, key=_numbers)
        with torch.no_grad():
            return network(*_inputs(family, (count * config.slider.together, *sides), live_text=False))

    images = not config.slider.asked
    weights = _weights(config, (everything[name] for name in staying)) + _copy(config, trained)
    pixels = max((shape[2:] for shape in shapes), key=lambda s: s[0] * s[1])
    averages = sum(p.numel() * 4.0 for p in trained) if config.ema.decay else 0.0
    teacher = sum(p.numel() * 4.0 for p in trained) if config.consistency.target == "average" else 0.0
    on_host = config.ema.device == "cpu"
    largest = max(shapes, key=_numbers)
    forward = _forward(network, _inputs(family, largest, live_text=False))
    return MemoryEstimate(
        weights=weights,
        optimizer=sum(p.numel() for p in trained) * _state_bytes(config) + teacher + (0.0 if on_host else averages),
        step=max(peak(step, known, lower), peak(begin, known, lower) if not images else 0.0),
        caching=_bytes(family.vae) + _encoding(family, known, pixels) if config.data.cache_latents and images else 0.0,
        sampling=_sampling(config, family, known, lower, weights, (everything[name] for name in resting)),
        operations=forward * (passes(config) + preserving(config) + begun(config) + config.consistency.asked),
        forward=forward / (largest[0] * largest[2] * largest[3] * cell**2),
        base=sum(map(_bytes, everything.values())),
        average=averages if on_host else 0.0,
        latent=4.0 * channels / cell**2 * (2 if config.data.latent_sampling == "fresh" else 1),
    )


def _numbers(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


@torch.no_grad()
def _forward(network: Network, inputs: tuple[Any, ...]) -> float:
    """Operations of a forward pass."""
    with FlopCounterMode(display=False) as counter:
        network(*inputs)
    return float(counter.get_total_flops())


def passes(config: BaseConfig) -> float:
    """A step in forward passes: a backward pass costs one for the activations' gradients, another one where weights
    have gradients of their own, and again what is computed anew."""
    again = {"selective": 0.5, "full": 1.0}.get(config.training.gradient_checkpointing, 0.0)
    return 2 + (config.training.method == "full") + again


def preserving(config: BaseConfig) -> float:
    """What is asked of the base in a step, in forward passes, on the average; all images with masks for those that
    ask outside of them."""
    kept = config.preservation
    twice = kept.share * (1 + passes(config)) * kept.again
    again = kept.share if kept.outside_mask else 0.0
    return twice + max(again, float(config.prior_prediction_asked))


def begun(config: BaseConfig) -> float:
    """What a step without images asks besides, in forward passes, on the average."""
    slider = config.slider
    return slider.asks + slider.together * slider.denoising_steps / 2 if slider.asked else 0.0


def _copy(config: BaseConfig, trained: Iterable[Tensor]) -> float:
    """Bytes of the frozen copy that a full fine-tune asks, where it is asked."""
    if not config.asks_base or config.training.method != "full":
        return 0.0
    return sum(p.numel() for p in trained) * float(DTYPES[config.preservation.copy_precision].itemsize)


def _free(parameter: Tensor) -> None:
    parameter.grad = None


def _autocast(config: BaseConfig) -> torch.dtype | None:
    return None if config.training.precision == "fp32" else DTYPES[config.training.precision]


def _batches(config: BaseConfig) -> list[tuple[int, int, int]]:
    """(B, H, W) as the datasets of a config ask."""
    found = [(pair.batch_size, *pair.size[::-1]) for pair in config.slider.pairs]
    for dataset in config.datasets:
        options = effective(DatasetOptions, dataset, config.general)
        sides = (options.resolution,) * 2 if isinstance(options.resolution, int) else options.resolution
        found.append((options.batch_size, sides[1], sides[0]))
    return found


def _inputs(family: Any, shape: tuple[int, int, int, int], *, live_text: bool) -> Inputs:
    """The arguments of `Network.forward`."""
    count = shape[0]
    states = None if live_text else _like(_states(family), count)
    sizes = torch.empty(count, 2, dtype=torch.long, device=META)
    times = torch.empty(count, dtype=torch.long, device=META)
    noisy, hidden = torch.empty(shape, device=META), torch.empty(count, 1, *shape[2:], device=META)
    shown = Shown(hidden, latents=noisy) if family.fills else None
    return Inputs(noisy, times, states, [family.some_caption] * count, Geometry(sizes, sizes, sizes), shown)


@torch.no_grad()
def _states(family: Any) -> TextStates:
    """Of one caption."""
    found: TextStates = family.encode_text([family.some_caption])
    return found


def _like(states: TextStates, count: int) -> TextStates:
    """Places for the states of so many captions."""
    return states.map(lambda tensor: torch.empty(count, *tensor.shape[1:], dtype=tensor.dtype, device=META))


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
    optimizer = optimizers.build(name, [Group("sample", "", 1e-4, [weight])], dict(args))
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
    """Beside the VAE's own weights."""
    height, width = (side * family.latent_factor for side in cells)
    pixels = torch.empty(min(4, together(width, height)), 3, height, width, device=META)
    return peak(lambda: family.encode_posterior(pixels), known, None)


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
    channels = family.latent_channels
    largest = max((one.fitting(family.drawn, family.size_multiple) for one in wanted), key=lambda r: r.width * r.height)
    cells = (largest.height // family.latent_factor, largest.width // family.latent_factor)
    pictures = 2 * min(TOGETHER, len(wanted))  # guidance asks twice
    noisy, times, text, _, geometry, shown = _inputs(family, (pictures, channels, *cells), live_text=False)
    denoising = peak(lambda: family.predict(noisy, times, text, geometry, shown), known, lower)
    latents = torch.empty(1, channels, *cells, device=META)
    decoding = peak(lambda: family.decode_latents(latents), known, None)
    trained = sum(p.numel() for part in family.parts.values() for p in part.parameters() if p.requires_grad)
    return weights + sum(map(_bytes, resting)) + trained * _state_bytes(config) + max(denoising, decoding)
