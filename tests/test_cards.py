"""What is taken for a wait in a profile of a real card."""

from __future__ import annotations

from types import SimpleNamespace as Of

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from tests.cards import WATCHED, AnyCard, waits_among


def event(name: str, start: float, end: float | None = None, device: str = "CPU") -> Of:
    return Of(name=name, device_type=Of(name=device), time_range=Of(start=start, end=start + 1 if end is None else end))


def test_calls_within_the_block_and_copies_of_pageable_memory_are_waits() -> None:
    seen = [
        event("cudaDeviceSynchronize", 5), event(WATCHED, 10, 20), event(WATCHED, 12, 30, "CUDA"),
        event("cudaEventSynchronize", 11), event("cudaLaunchKernel", 12), event("cudaStreamSynchronize", 19),
        event("cudaDeviceSynchronize", 21), event("Memcpy HtoD (Pinned -> Device)", 13, device="CUDA"),
        event("Memcpy DtoH (Device -> Pageable)", 25, device="CUDA"), event("Memcpy DtoD (Device -> Device)", 14),
    ]  # fmt: skip
    found = ["cudaEventSynchronize", "cudaStreamSynchronize", "Memcpy DtoH (Device -> Pageable)"]
    assert waits_among(seen) == found


def test_torchs_own_profile_can_be_read() -> None:
    with profile(activities=[ProfilerActivity.CPU]) as seen, record_function(WATCHED):
        pass
    assert waits_among(seen.events() or []) == []


def test_a_wait_is_seen_on_every_card(any_card: AnyCard) -> None:
    there = torch.ones(3, device="cuda")
    with any_card.waits() as waits:
        torch.cuda.synchronize()
        float(there.sum())
    assert len(waits) >= 2  # a read is told once or twice
