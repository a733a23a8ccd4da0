"""SIGKILL at any moment of a run: while images are encoded, in a step, in a sample, in every call of a save. What is
resumed then ends with the same bits. The long version is tests/benchmarks/reliability.py."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.reliability import kills, small

CASES = 20


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return small.make(tmp_path / "a project")


def test_a_run_that_was_killed_anywhere_ends_with_the_same_bits(project: Path) -> None:
    whole = kills.uninterrupted(project)
    assert len(whole.moments) > 150
    assert {"encode_images", "encode_text", "predict", "unet", "decode_latents", "fsync", "replace"} <= {
        kind for kind, _ in whole.moments
    }
    for case in range(CASES):
        kills.killed_and_resumed(project, whole, 1 + case * len(whole.moments) // CASES, f"killed-{case}")


def test_killed_again_and_again(project: Path) -> None:
    whole = kills.uninterrupted(project)
    name = "often"
    for at in (100, 60, 30, 60, 40):
        assert kills.kill(project, name, at).signal == signal.SIGKILL
    kills.resumed(project, whole, name)
