"""What a run needs of a GPU's memory: its real networks, forward and backward, counted on torch's meta device."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests import full_size
from tests.benchmarks.live_memory import peak
from trainer import optimizers, prompts
from trainer.batch import Geometry, TextStates
from trainer.build.model import prepare_parts, resting_parts
from trainer.config import BaseConfig, DatasetOptions, effective
from trainer.data.encode import together
from trainer.network import Network
from trainer.parameters import Group
from trainer.placement import VAE
from trainer.results import DTYPES
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

    @property
    def training(self) -> float:
        return self.weights + self.optimizer + self.step

    @property
    def total(self) -> float:
        return max(self.training, self.caching, self.sampling) + RESERVED


def estimate(config: BaseConfig, version: str) -> Estimate:
    """version: "sd1", "sd2" or "sdxl"."""
    family = full_size.make(version)
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
    if config.training.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    trained = [p for part in family.parts.values() for p in part.parameters() if p.requires_grad]
    if config.training.fused_backward:
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(_free)
    options = [effective(DatasetOptions, dataset, config.general) for dataset in config.datasets]
    known = [t for part in everything.values() for t in (*part.parameters(), *part.buffers())]

    def step() -> Tensor:
        shape = max((_latents(o) for o in options), key=lambda s: s[0] * s[2] * s[3])
        return network(*_inputs(family, shape, live_text=not set(family.text_parts) <= set(resting))).float().mean()

    weights = _weights(config, (everything[name] for name in staying))
    pixels = max((_latents(o)[2:] for o in options), key=lambda s: s[0] * s[1])
    averages = sum(p.numel() * 4.0 for p in trained) if config.ema.decay and config.ema.device != "cpu" else 0.0
    return Estimate(
        weights=weights,
        optimizer=sum(p.numel() for p in trained) * _state_bytes(config) + averages,
        step=peak(step, known, lower),
        caching=_bytes(family.vae) + _encoding(family, known, pixels) if VAE in resting else 0.0,
        sampling=_sampling(config, family, known, lower, weights, (everything[name] for name in resting)),
    )


def _free(parameter: Tensor) -> None:
    parameter.grad = None


def _autocast(config: BaseConfig) -> torch.dtype | None:
    return None if config.training.precision == "fp32" else DTYPES[config.training.precision]


def _latents(options: DatasetOptions) -> tuple[int, int, int, int]:
    """(B, C, h, w) of the largest batch."""
    sides = (options.resolution,) * 2 if isinstance(options.resolution, int) else options.resolution
    return options.batch_size, 4, sides[1] // 8, sides[0] // 8


def _inputs(family: Any, shape: tuple[int, int, int, int], *, live_text: bool) -> tuple[Any, ...]:
    """The arguments of `Network.forward`."""
    count = shape[0]
    width = family.unet.config.cross_attention_dim
    pooled = torch.empty(count, 1280, device=META) if len(family.text_parts) > 1 else None
    states = None if live_text else TextStates(torch.empty(count, 77, width, device=META), pooled)
    sizes = torch.empty(count, 2, dtype=torch.long, device=META)
    times = torch.empty(count, dtype=torch.long, device=META)
    return torch.empty(shape, device=META), times, states, ["a"] * count, Geometry(sizes, sizes, sizes)


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
    height, width = cells[0] * 8, cells[1] * 8
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
    cells = (config.samples.height // 8, config.samples.width // 8)
    pictures = 2 * min(TOGETHER, len(wanted))  # guidance asks twice
    inputs = _inputs(family, (pictures, 4, *cells), live_text=False)
    denoising = peak(lambda: family.predict(inputs[0], inputs[1], inputs[2], inputs[4]), known, lower)
    latents = torch.empty(1, 4, *cells, device=META)
    decoding = peak(lambda: family.vae.decode(latents), known, None)
    trained = sum(p.numel() for part in family.parts.values() for p in part.parameters() if p.requires_grad)
    return weights + sum(map(_bytes, resting)) + trained * _state_bytes(config) + max(denoising, decoding)
