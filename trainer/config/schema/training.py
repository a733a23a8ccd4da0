"""[training]: what trains, for how long, in which precision."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from trainer.config.schema.base import Section, key


def _level(value: Any) -> Any:
    return {True: "full", False: "off"}.get(value, value) if isinstance(value, bool) else value


Checkpointing = Annotated[Literal["off", "selective", "full", "auto"], BeforeValidator(_level)]


class TrainingSettings(Section):
    method: Literal["lora", "full"] = key(
        "lora", "lora trains small adapters, full the weights themselves.", basic=True
    )
    steps: int = key(1600, "Optimizer steps. Excludes epochs.", ge=1, basic=True)
    epochs: int = key(0, "Times every image (with its repeats) is seen; 0 = count steps instead.", ge=0)
    text_encoder: bool = key(False, "Train the text encoder too.")
    unet: bool = key(True, "Train the UNet.")
    text_encoder_until: float | None = key(
        None,
        "The text encoder stops learning after so many steps; below 1 a share of the run; not set = never.",
        gt=0,
        unit="steps",
    )
    precision: Literal["fp32", "bf16", "fp16"] = key(
        "fp32",
        "Arithmetic of the networks, and the storage of their frozen weights. What trains is always kept in float32.",
    )
    weight_dtype: Literal["fp32", "bf16"] = key(
        "fp32",
        "Storage of the weights that a full fine-tune changes. bf16 halves the memory of weights and gradients; "
        "updates are rounded to it at random, so that small ones are kept on the average. Costs time and accuracy.",
    )
    fused_backward: bool = key(
        False,
        "Full fine-tune: each weight is updated as soon as its gradient is known, which is freed at once. Saves the "
        "memory of all gradients and costs time; no accumulation, no clipping by norm.",
    )
    base_precision: Literal["same", "8bit", "4bit"] = key(
        "same",
        "Storage of the frozen linear layers under a LoRA. 8bit and 4bit (NF4) save memory and cost time and accuracy.",
    )
    gradient_accumulation: int = key(1, "Micro-batches per optimizer step.", ge=1)
    gradient_checkpointing: Checkpointing = key(
        "off",
        "Compute activations a second time instead of keeping them. full saves most memory, steps take about a third "
        "longer; selective is about half of both; auto tries them on the GPU and takes the quickest that fits. true is "
        "full, false is off.",
    )
    max_grad_norm: float = key(1.0, "Gradients are clipped to this norm; 0 = never.", ge=0)
    max_grad_value: float = key(
        0.0,
        "Each number of a gradient is clipped to this size instead, which bends the gradient's direction; 0 = never.",
        ge=0,
    )
    preflight: bool = key(
        True, "Try one step with the largest batch first: tells memory and time, and fails before the work begins."
    )
