"""Who takes which micro-batch of the endless stream that all processes share."""

from __future__ import annotations


def global_index(step: int, micro_batch: int, accumulation: int, rank: int, world: int) -> int:
    """The index in the stream that a process takes; ranks and micro-batches never share one."""
    return (step * accumulation + micro_batch) * world + rank
