"""How batches travel between the host and a device."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from trainer.batch import Batch, Geometry, TextStates


class Copied:
    """Stands for a tensor, and keeps how it was asked to travel."""

    def __init__(self) -> None:
        self.trips: list[tuple[str, bool]] = []

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Copied:
        self.trips.append((torch.device(device).type, non_blocking))
        return self


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_the_host_waits_for_copies_that_it_reads_or_whose_source_may_go(device: str) -> None:
    states = [Copied() for _ in range(8)]
    given: list[Any] = list(states)
    text = TextStates(given[0], given[1])
    Batch(("a",), ("a",), Geometry(*given[2:5]), given[5], latents=given[6], text=text, mask=given[7]).to(device)
    assert [one.trips for one in states] == [[(device, False)]] * len(states)


def test_the_host_does_not_wait_on_the_way_to_cuda() -> None:
    copied = Copied()
    TextStates(cast(Any, copied)).to(torch.device("cuda", 0))
    assert copied.trips == [("cuda", True)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_what_comes_back_from_the_device_is_there_when_it_is_read() -> None:
    work = torch.randn(4096, 4096, device="cuda")
    for _ in range(20):  # a queue of work, behind which the copy stands
        work = work @ work / work.norm()
    back = TextStates(work).to("cpu").hidden.clone()
    assert torch.equal(back, work.cpu())
