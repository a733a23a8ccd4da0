"""How batches travel between the host and a device."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from tests.cards import AnyCard, Real
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
    text = TextStates({"hidden": given[0], "pooled": given[1]})
    Batch(("a",), ("a",), Geometry(*given[2:5]), given[5], latents=given[6], text=text, mask=given[7]).to(device)
    assert [one.trips for one in states] == [[(device, False)]] * len(states)


def test_the_host_does_not_wait_on_the_way_to_cuda() -> None:
    copied = Copied()
    TextStates({"hidden": cast(Any, copied)}).to(torch.device("cuda", 0))
    assert copied.trips == [("cuda", True)]


def states(*lengths: int) -> TextStates:
    """Ones for as many tokens, and what has no tokens."""
    each = [
        TextStates(
            {"ids": torch.ones(1, n, 2), "ids_mask": torch.ones(1, n, dtype=torch.long), "pooled": torch.ones(1)}
        )
        for n in lengths
    ]
    return TextStates.cat(each)


def test_captions_of_other_lengths_are_joined_behind_their_masks() -> None:
    joined = states(3, 1)
    assert joined["ids_mask"].tolist() == [[1, 1, 1], [1, 0, 0]] and joined["ids_mask"].dtype == torch.long
    assert torch.equal(joined["ids"], joined["ids_mask"][..., None].expand(2, 3, 2).float())
    assert joined["pooled"].shape == (2,)
    again = TextStates.cat([joined.row(0), joined.row(1), states(4)])
    assert torch.equal(again["ids"], states(3, 1, 4)["ids"])


def test_what_has_no_mask_is_never_filled_up() -> None:
    with pytest.raises(RuntimeError):
        TextStates.cat([TextStates({"hidden": torch.ones(1, n, 2)}) for n in (3, 1)])


def test_what_comes_back_from_the_device_is_there_when_it_is_read(any_card: AnyCard) -> None:
    size = 4096 if isinstance(any_card, Real) else 32
    across = torch.nn.functional.normalize(torch.randn(size, 1, device="cuda"), dim=0)
    turn = torch.eye(size, device="cuda") - 2 * across @ across.T  # a mirror, which keeps lengths as they are
    work = torch.randn(size, size, device="cuda")
    for _ in range(20):  # a queue of work, behind which the copy stands
        work = work @ turn
    back = TextStates({"hidden": work}).to("cpu")["hidden"].clone()
    assert 0.5 < float(work.std()) < 2
    assert torch.equal(back, work.cpu())
