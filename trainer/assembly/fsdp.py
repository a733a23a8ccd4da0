"""What accelerate's config says about FSDP, and whether it can be done for a run."""

from __future__ import annotations

from accelerate import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import CPUOffloadPolicy

from trainer.assembly.split_states import unfit_optimizer, unsplittable
from trainer.config.schema.whole import BaseConfig
from trainer.errors import UserError

FSDP = "ACCELERATE_USE_FSDP"  # by which `accelerate launch` asks for it
# Optimizers that do the same to weights that are split (torch's DTensor) as to whole ones; most others refuse them.
SHARDABLE = (
    *("adam", "adamw", "adamax", "nadam", "radam", "adagrad", "adadelta", "rmsprop", "sgd", "asgd"),
    *("schedulefreeadamw", "schedulefreesgd", "stableadamw", "simplifiedademamix"),
    *("adabelief", "muon", "tiger", "yogi"),
)


def released() -> bool:
    """Whether weights are given up between the forward and the backward pass."""
    return bool(FullyShardedDataParallelPlugin().reshard_after_forward)


def refuse(config: BaseConfig) -> None:
    """Raises UserError for everything that would be ignored or fail later."""
    problems = [f"{text} (in accelerate's config, see configs/accelerate/fsdp.yaml)." for text in _of_accelerate()]
    settings = unsplittable(config)
    if config.training.method == "full":  # adapters are not split
        settings += unfit_optimizer(config, SHARDABLE)
    problems += [f"{text}: this does not work with weights that FSDP splits." for text in settings]
    if problems:
        raise UserError(problems)


def _of_accelerate() -> list[str]:
    try:
        asked = FullyShardedDataParallelPlugin()
    except (ValueError, ImportError) as error:
        return [f"fsdp_config: {error}"]
    wrong = {
        f"fsdp_version: found {asked.fsdp_version}, expected 2": asked.fsdp_version != 2,
        "fsdp_offload_params: true is not supported; set it to false": isinstance(asked.cpu_offload, CPUOffloadPolicy),
        "fsdp_activation_checkpointing: true is set in the trainer's config instead: training.gradient_checkpointing": (
            asked.activation_checkpointing
        ),
    }
    return [text for text in wrong if wrong[text]]
