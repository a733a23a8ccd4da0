"""Shared set-up of all tests."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# torch reads it once, at the first product on a card, and refuses deterministic runs in a process that was without it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

# Two busy threads on two cores make tiny models tens of times slower.
torch.set_num_threads(1)

pytest_plugins = ("tests.cards",)
