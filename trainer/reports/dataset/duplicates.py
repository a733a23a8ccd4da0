"""Finds images that are the same file, or look the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from trainer.reports.dataset.looks import FileLook

FAR = 7  # bits of 128 in which near duplicates may differ
BANDS = FAR + 1  # of 16 bits: with 7 wrong bits at least one band of 8 is untouched
TONES = 12  # steps of brightness that they may differ; flat pictures have no other feature
CROWD = 200  # of more images that share a band, each is compared with its `NEIGHBOURS` in the order of hashes only
NEIGHBOURS = 20


def exact(looks: Sequence[FileLook]) -> list[list[int]]:
    """Groups of indices whose files hold the same bytes."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, look in enumerate(looks):
        if look.content:
            groups[look.content].append(index)
    return [group for group in groups.values() if len(group) > 1]


def near(looks: Sequence[FileLook], shapes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Groups of indices that look alike, exact copies counted once. `shapes`: (width, height) of each image."""
    first: dict[bytes, int] = {}
    for index, look in enumerate(looks):
        if look.content:
            first.setdefault(look.content, index)
    groups = _Groups()
    for one, other in set(_candidates(first.values(), looks)):
        if _alike(looks[one], looks[other]) and _same_aspect(shapes[one], shapes[other]):
            groups.join(one, other)
    return groups.all()


def _candidates(indices: Iterable[int], looks: Sequence[FileLook]) -> Iterable[tuple[int, int]]:
    bands: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index in indices:
        for band in range(BANDS):
            bands[band, looks[index].shape >> (16 * band) & 0xFFFF].append(index)
    for members in bands.values():
        reach = len(members)
        if reach > CROWD:
            members.sort(key=lambda index: looks[index].shape)
            reach = NEIGHBOURS
        for position, one in enumerate(members):
            for other in members[position + 1 : position + 1 + reach]:
                yield min(one, other), max(one, other)


def _alike(one: FileLook, other: FileLook) -> bool:
    return (one.shape ^ other.shape).bit_count() <= FAR and abs(one.tone - other.tone) <= TONES


def _same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    first, second = one[0] / one[1], other[0] / other[1]
    return abs(first - second) <= 0.03 * max(first, second)


class _Groups:
    """Disjoint sets of numbers."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def _root(self, number: int) -> int:
        while (parent := self._parent.setdefault(number, number)) != number:
            self._parent[number] = self._parent[parent]
            number = parent
        return number

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self._root(one), self._root(other)))
        self._parent[second] = first

    def all(self) -> list[list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for number in sorted(self._parent):
            found[self._root(number)].append(number)
        return [group for group in found.values() if len(group) > 1]
