"""Random streams keyed by (seed, purpose, step, micro-batch, rank): no draw depends on any other.

Counter-based: nothing has to be saved for a resume, and switching one consumer on or off moves no other.
"""

from __future__ import annotations

import hashlib
import random

import torch


def derive(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed for one stream; any change of any argument gives an unrelated one."""
    text = "/".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for one stream, e.g. generator(42, "noise", step, micro_batch, rank, device="cuda").

    Draws on MPS are made on the CPU: its generator lacks the gamma law, and float64.
    """
    device = torch.device(device)
    on = device if device.type == "cuda" else torch.device("cpu")
    return torch.Generator(on).manual_seed(derive(seed, purpose, *counters))


def python_random(seed: int, purpose: str, *counters: int) -> random.Random:
    """The same for Python's own random numbers (captions, shuffling)."""
    return random.Random(derive(seed, purpose, *counters))
