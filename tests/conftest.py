"""Shared set-up of all tests."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

# Two busy threads on two cores make tiny models tens of times slower.
torch.set_num_threads(1)
