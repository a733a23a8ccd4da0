"""[run], [save], [logging] and [performance]: where a run goes, what is kept and told of it, what speeds it up."""

from __future__ import annotations

from typing import Literal

from trainer.config.schema.base import Every, Section, key


class RunSettings(Section):
    name: str = key("", "Name of the run: results go to <output_dir>/<name>/.", basic=True)
    output_dir: str = key("output", "Folder that holds all runs.", path="made")
    seed: int = key(42, "Seed of every random stream of the run.", ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda", "mps"] = key("auto", "Where to train; auto takes the GPU if there is one.")
    deterministic: bool = key(
        False,
        "On a GPU, only algorithms that give the same bits every time: a resumed run then equals an uninterrupted one "
        "exactly, and steps are somewhat slower. On a CPU it is so anyway.",
    )


class SaveSettings(Section):
    every: Every = key(
        0,
        "How often results are saved: steps, or a text such as '15m' or '1 epoch'; 0 = only at the end.",
        unit="steps",
    )
    dtype: Literal["fp32", "fp16", "bf16"] = key("fp16", "Storage of saved weights.")
    full: Literal["folder", "file", "both"] = key(
        "folder",
        "A full fine-tune's result: a diffusers folder, one file as ComfyUI and A1111 load it, or both.",
    )
    keep: int = key(2, "Checkpoints that are kept to resume from, the newest ones.", ge=1)
    keep_every: int = key(
        0, "Checkpoints whose step is a multiple of this are kept for good; 0 = none of them.", ge=0, unit="steps"
    )
    comment: str = key("", "Free text for the file's metadata.")


class LoggingSettings(Section):
    every: int = key(1, "Steps between metrics; each costs one synchronisation.", ge=1, unit="steps")
    tensorboard: bool = key(True, "Write TensorBoard files into the run's folder.")
    wandb: bool = key(False, "Log to Weights & Biases too; needs the package wandb and a login.")
    wandb_project: str = key("immiscible", "Project at Weights & Biases.")


class PerformanceSettings(Section):
    """Levers of speed that change no result but for rounding."""

    compile: bool = key(
        False,
        "Compile the UNet's transformer blocks (torch.compile): quicker steps after a minute at the start. Each size "
        "of batch is compared with eager gradients once; where the compiler fails, the run says so and does without.",
    )
    tf32: Literal["auto", "on", "off"] = key(
        "auto",
        "Products in float32 with ten bits of the fraction instead of 23, which is faster where the precision is fp32 "
        "and in the VAE. auto has it in convolutions alone, as torch does; on in matrix products too; off "
        "nowhere. For NVIDIA GPUs from Ampere (RTX 30) on; elsewhere it has no effect. The same bits every time.",
    )
    cudnn_benchmark: Literal["auto", "on", "off"] = key(
        "auto",
        "On an NVIDIA GPU, try the algorithms for convolutions at each new size of batch and keep the quickest. auto: "
        "where sizes come at least 50 times each. A resumed run may find another one the quickest, and then goes on, "
        "but not bit for bit; run.deterministic = true excludes it.",
    )
    channels_last: bool = key(
        False,
        "Keep pictures inside the UNet with channels last, which convolutions on newer GPUs like; whether it helps "
        "depends on the GPU.",
    )
