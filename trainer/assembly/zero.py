"""What accelerate's config says about DeepSpeed, and whether it can be done for a run."""

from __future__ import annotations

import importlib.metadata
import os

from trainer.assembly.split_states import unfit_optimizer, unsplittable
from trainer.config.schema.whole import BaseConfig
from trainer.errors import UserError

DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"  # by which `accelerate launch` asks for it
RELEASE, INSTALL = "0.19", "DS_BUILD_OPS=0 pip install deepspeed==0.19.8"
# Optimizers that do to a part of a line of numbers what they do to whole weights, one by one.
ELEMENTWISE = ("adam", "adamw", "adamax", "nadam", "radam", "rmsprop", "sgd", "tiger", "yogi", "adabelief")
# What `accelerate launch` makes of the other settings -> their names, and what they have to be where they are given
FIXED = {
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": ("offload_optimizer_device", "none"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": ("offload_param_device", "none"),
    "ACCELERATE_DEEPSPEED_CONFIG_FILE": ("deepspeed_config_file", "none"),
    "ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES": ("deepspeed_moe_layer_cls_names", ""),
}


def stage() -> int:
    """The stage of ZeRO. Raises UserError for one that is not followed."""
    asked = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    instead = {
        "0": "has each process keep everything; that is distributed_type: MULTI_GPU (configs/accelerate/ddp.yaml)",
        "3": "is done by PyTorch itself here, which splits the weights too: use distributed_type: FSDP "
        "(configs/accelerate/fsdp.yaml)",
    }
    if asked not in ("1", "2"):
        why = instead.get(asked, "is not known; use 1 or 2")
        raise UserError(f"zero_stage (in accelerate's config): {asked} {why}.")
    return int(asked)


def refuse(config: BaseConfig) -> None:
    """Raises UserError for everything that would be ignored or fail later."""
    stage()
    problems = [
        f"{text} (in accelerate's config, see configs/accelerate/zero2.yaml)." for text in _of_accelerate(config)
    ]
    settings = [*unsplittable(config), *unfit_optimizer(config, ELEMENTWISE)]
    if config.training.max_grad_value:
        settings.append(f"training.max_grad_value: {config.training.max_grad_value:g}; use max_grad_norm")
    problems += [f"{text}: this does not work with DeepSpeed's ZeRO." for text in settings]
    if problems:
        raise UserError(problems)
    try:
        found = importlib.metadata.version("deepspeed")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "distributed_type: DEEPSPEED (in accelerate's config): DeepSpeed is not installed. Install it with "
            f"{INSTALL} in .venv (it compiles nothing), or use FSDP (configs/accelerate/fsdp.yaml), which needs "
            "nothing."
        ) from None
    if not found.startswith(f"{RELEASE}."):
        raise UserError(
            f"DeepSpeed: found {found}, but checkpoints are made from its insides as they are in {RELEASE}. Install it "
            f"with {INSTALL} in .venv, or use FSDP (configs/accelerate/fsdp.yaml)."
        )


def _of_accelerate(config: BaseConfig) -> list[str]:
    wrong = [
        f"{name}: {given} is not supported; leave it out"
        for variable, (name, fitting) in FIXED.items()
        if (given := os.environ.get(variable, fitting)) != fitting
    ]
    ours = {
        "gradient_accumulation_steps": config.training.gradient_accumulation,
        "gradient_clipping": config.training.max_grad_norm,
    }
    names = {"gradient_clipping": "max_grad_norm", "gradient_accumulation_steps": "gradient_accumulation"}
    for name, value in ours.items():
        given = os.environ.get(f"ACCELERATE_{name.upper()}", "auto")
        if given not in ("auto", "none") and float(given) != value:
            wrong.append(f"{name}: found {given}, but training.{names[name]} is {value}; leave it out")
    return wrong
