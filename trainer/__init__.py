"""Immiscible Trainer: LoRA and full fine-tunes of Stable Diffusion with a pluggable noise stage."""

__version__ = "0.1.0"
