"""What protects a run from itself: steps that are not finite, memory that runs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.config import BaseConfig
from trainer.errors import RunError

PATIENCE = 5  # steps in a row without a finite gradient, then the run stops


@dataclass
class FiniteSteps:
    """Counts the steps that were skipped because loss or gradients were NaN or infinite."""

    skipped: int = 0  # in all
    in_a_row: int = 0

    def passed(self) -> None:
        self.in_a_row = 0

    def failed(self, step: int, names: Sequence[str]) -> str:
        """The line about a skipped step. Raises RunError when there were too many in a row."""
        self.skipped += 1
        self.in_a_row += 1
        files = ", ".join(dict.fromkeys(names))
        line = f"step {step}: NaN or infinity in the gradients, the update was skipped (images: {files})"
        if self.in_a_row >= PATIENCE:
            raise RunError(
                f"{line}\nThat were {PATIENCE} steps in a row, so the run stops; its weights are still sound. "
                "Try a lower optimizer.lr, training.precision = 'bf16' or 'fp32', or look at these images."
            )
        return line


def memory_advice(config: BaseConfig) -> str:
    """What to change when the device's memory ran out: the three settings that save most in this run."""
    training = config.training
    batch = max((d.batch_size for d in [*config.datasets, config.general]), default=1)
    candidates = [
        (not training.gradient_checkpointing, "training.gradient_checkpointing = true"),
        (training.precision == "fp32", "training.precision = 'bf16'"),
        (batch > 1, "a smaller batch_size (with training.gradient_accumulation raised to match)"),
        (not config.data.cache_latents, "data.cache_latents = true"),
        (training.text_encoder, "training.text_encoder = false"),
        (training.method == "full", "training.method = 'lora'"),
        (config.optimizer.name == "adamw", "optimizer.name = 'adamw8bit'"),
        (True, "a lower resolution"),
    ]
    return ", ".join([text for helps, text in candidates if helps][:3])
