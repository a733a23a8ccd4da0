"""The device of a run, and how its processes share the training: what `accelerate launch` or torchrun set up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, KwargsHandler
from torch import distributed

from trainer import registry
from trainer.assembly import fsdp, zero
from trainer.config.schema.whole import BaseConfig
from trainer.device.kernels import use_tf32
from trainer.errors import UserError
from trainer.parallel.processes import Copies, Processes
from trainer.parallel.sharding import Shards
from trainer.parallel.zero import Zero
from trainer.protocols import Family
from trainer.run.results import DTYPES

PATIENCE = timedelta(hours=1)  # of processes that wait while one draws samples or reads images; usual: 10 minutes
MEGATRON = "ACCELERATE_USE_MEGATRON_LM"  # by which `accelerate launch` asks for it


def accelerator_for(config: BaseConfig) -> Accelerator:
    """Raises UserError for what this machine or this trainer cannot do."""
    if _is_set(MEGATRON):
        raise UserError(
            f"distributed_type: MEGATRON_LM (in accelerate's config, {MEGATRON}) is not supported. Use MULTI_GPU "
            "(configs/accelerate/ddp.yaml), or FSDP (configs/accelerate/fsdp.yaml) to split the weights."
        )
    precision = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[config.training.precision]
    cpu = config.run.device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if cpu and precision == "fp16":
        raise UserError("training.precision: fp16 needs a GPU; use bf16 or fp32 on a CPU.")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(config.run.device, True):
        raise UserError(f"run.device: found {config.run.device!r}, but torch sees no such device here; use 'auto'.")
    use_tf32(config.performance.tf32)
    # accelerate keeps the first precision and device for the life of the process; here one may train several runs, and
    # one that asks for a GPU after one on the CPU would silently stay on the CPU.
    AcceleratorState._reset_state(reset_partial_state=not distributed.is_initialized())
    # With FSDP it would wrap the network as one, which nobody could then run in part; DeepSpeed would have its own
    # mixed precision, and split what cannot be put together again.
    with _without(fsdp.FSDP), _without(zero.DEEPSPEED):
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=precision,
            gradient_accumulation_steps=config.training.gradient_accumulation,
            kwargs_handlers=_between_processes(config),
        )
    if accelerator.num_processes > 1:
        _refuse(config, accelerator)
    return accelerator


def leave() -> None:
    """Ends the group of processes, if there is one: left to the end of the program it may crash that."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def share_out(config: BaseConfig, accelerator: Accelerator, family: Family, rates: Mapping[str, float]) -> Processes:
    """Splits the parts that have a learning rate where accelerate's config asks for it."""
    if accelerator.num_processes > 1 and _is_set(zero.DEEPSPEED):
        return Zero(accelerator, stage=zero.stage(), max_norm=config.training.max_grad_norm)
    if accelerator.num_processes == 1 or not _is_set(fsdp.FSDP):
        return Copies(accelerator)
    parts = [family.parts[name] for name in rates]
    adapters = [p for part in parts for p in part.parameters() if p.requires_grad]
    return Shards(
        accelerator,
        parts,
        whole=adapters if config.training.method == "lora" else (),
        compute=None if config.training.precision == "fp32" else DTYPES[config.training.precision],
        release=fsdp.released(),
    )


def _refuse(config: BaseConfig, accelerator: Accelerator) -> None:
    """Raises UserError for settings that do not go together with several processes."""
    if config.training.fused_backward:  # gradients are exchanged after the backward pass; it leaves none
        raise UserError(
            f"training.fused_backward: true works in one process, found {accelerator.num_processes}; set it to false."
        )
    if _is_set(zero.DEEPSPEED):
        zero.refuse(config)
    if _is_set(fsdp.FSDP):
        fsdp.refuse(config)


def _between_processes(config: BaseConfig) -> list[KwargsHandler]:
    # Some kinds leave out a dropped module: then nothing of it has a gradient to exchange.
    sparse = config.lora.module_dropout > 0 and registry.find("adapters", config.lora.method).skips_whole
    # Buffers are constants, so there is nothing to exchange of them in each forward pass.
    gradients = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=sparse)
    return [gradients, InitProcessGroupKwargs(timeout=PATIENCE)]


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")


@contextmanager
def _without(variable: str) -> Iterator[None]:
    kept = os.environ.pop(variable, None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ[variable] = kept
