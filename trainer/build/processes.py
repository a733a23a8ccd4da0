"""The device of a run, and how its processes share the training: what `accelerate launch` or torchrun set up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, KwargsHandler
from torch import distributed
from torch.distributed.fsdp import CPUOffloadPolicy

from trainer.build import zero
from trainer.config import BaseConfig
from trainer.errors import UserError
from trainer.optimizers import ALIASES
from trainer.parallel.processes import Copies, Processes
from trainer.parallel.sharding import Shards
from trainer.parallel.zero import Zero
from trainer.protocols import Family
from trainer.run.results import DTYPES

PATIENCE = timedelta(hours=1)  # of processes that wait while one draws samples or reads images; usual: 10 minutes
FSDP = "ACCELERATE_USE_FSDP"  # by which `accelerate launch` asks for sharding
MEGATRON = "ACCELERATE_USE_MEGATRON_LM"
# Optimizers that do the same to weights that are split (torch's DTensor) as to whole ones; most others refuse them.
SHARDABLE = (
    *("adam", "adamw", "adamax", "nadam", "radam", "adagrad", "adadelta", "rmsprop", "sgd", "asgd"),
    *("schedulefreeadamw", "schedulefreesgd", "stableadamw", "simplifiedademamix"),
    *("adabelief", "muon", "tiger", "yogi"),
)


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
    # accelerate keeps the first precision for the life of the process; here one process may train several runs.
    AcceleratorState._reset_state()
    # With FSDP it would wrap the network as one, which nobody could then run in part; DeepSpeed would have its own
    # mixed precision, and split what cannot be put together again.
    with _without(FSDP), _without(zero.DEEPSPEED):
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
    if accelerator.num_processes == 1 or not _is_set(FSDP):
        return Copies(accelerator)
    parts = [family.parts[name] for name in rates]
    adapters = [p for part in parts for p in part.parameters() if p.requires_grad]
    return Shards(
        accelerator,
        parts,
        whole=adapters if config.training.method == "lora" else (),
        compute=None if config.training.precision == "fp32" else DTYPES[config.training.precision],
        release=bool(FullyShardedDataParallelPlugin().reshard_after_forward),
    )


def _refuse(config: BaseConfig, accelerator: Accelerator) -> None:
    """Raises UserError for settings that do not go together with several processes."""
    if config.training.fused_backward:  # gradients are exchanged after the backward pass; it leaves none
        raise UserError(
            f"training.fused_backward: true works in one process, found {accelerator.num_processes}; set it to false."
        )
    if _is_set(zero.DEEPSPEED):
        zero.refuse(config)
    if _is_set(FSDP):
        _refuse_plugin()
        _refuse_unshardable(config)


def _refuse_plugin() -> None:
    """Reads what accelerate's config says about FSDP."""
    try:
        asked = FullyShardedDataParallelPlugin()
    except (ValueError, ImportError) as error:
        raise UserError(f"fsdp_config (in accelerate's config): {error}") from error
    wrong = {
        "fsdp_version: found 1, expected 2": asked.fsdp_version != 2,
        "fsdp_offload_params: true is not supported; set it to false": isinstance(asked.cpu_offload, CPUOffloadPolicy),
        "fsdp_activation_checkpointing: true is set in the trainer's config instead: training.gradient_checkpointing": (
            asked.activation_checkpointing
        ),
    }
    if any(wrong.values()):
        raise UserError(
            f"{text} (in accelerate's config, see configs/accelerate/fsdp.yaml)." for text in wrong if wrong[text]
        )


def _refuse_unshardable(config: BaseConfig) -> None:
    training, performance = config.training, config.performance
    whole, name = config.training.method == "full", config.optimizer.name.lower()
    wrong = {
        "training.precision: 'fp16'; use 'bf16'": training.precision == "fp16",
        f"training.base_precision: {training.base_precision!r}; use 'bf16'": training.base_precision
        in ("8bit", "4bit"),
        "training.weight_dtype: 'bf16'; use 'fp32', of which each process holds a part": training.weight_dtype
        != "fp32",
        "training.gradient_checkpointing: 'auto'; use 'off', 'selective' or 'full'": (
            training.gradient_checkpointing == "auto"
        ),
        "performance.channels_last: true; use false": performance.channels_last,
        "performance.compile: true; use false": performance.compile,
        f"optimizer.name: {config.optimizer.name!r}; use one of {', '.join(SHARDABLE)}": (
            whole and ALIASES.get(name, name) not in SHARDABLE
        ),
    }
    if any(wrong.values()):
        raise UserError(f"{text}: this does not work with weights that FSDP splits." for text in wrong if wrong[text])


def _between_processes(config: BaseConfig) -> list[KwargsHandler]:
    # peft's LoHa and LoKr leave out a dropped module: then nothing of it has a gradient to exchange.
    sparse = config.lora.module_dropout > 0 and config.lora.method in ("loha", "lokr")
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
