"""Keeps libraries' notices that concern nobody here (optional packages that are not installed) off the terminal."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.device import beforehand
from trainer.journal.console import busy

NAMES = ("bitsandbytes", "diffusers", "transformers", "accelerate", "peft", "kernels", "torch.distributed.run")


def quiet() -> None:
    """Call before the libraries are imported; errors still show."""
    beforehand.settle()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in NAMES:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"(diffusers|transformers|peft|accelerate|bitsandbytes)\b"
    )


@contextmanager
def loading() -> Iterator[None]:
    """For imports that take seconds: the terminal shows a sign of life, and libraries keep still."""
    quiet()
    with busy("loading libraries"):
        yield
