"""Shared set-up of all tests."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# torch reads it once, at the first product on a card, and refuses deterministic runs in a process that was without it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

# Begun first: one process alone with the longest file at the end would let the others wait.
LONGEST = (
    "tests/ui/test_browser.py", "tests/device_paths/test_training.py", "tests/trainer/parallel/test_sharding.py",
    "tests/test_quality.py", "tests/trainer/device/test_compilation.py", "tests/trainer/parallel/test_processes.py",
    "tests/trainer/validation/test_validation.py", "tests/trainer/assembly/test_training.py",
)  # fmt: skip

# Two busy threads on two cores make tiny models tens of times slower.
torch.set_num_threads(1)

pytest_plugins = ("tests.cards",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))
