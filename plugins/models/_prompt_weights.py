"""A1111's prompt weights: "(word)" counts 1.1 times as much, "[word]" 1/1.1, "(word:1.3)" 1.3 times."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ROUND, _SQUARE = 1.1, 1 / 1.1
_TOKEN = re.compile(r"\\[\\()\[\]]|:\s*([+-]?\d*\.?\d+)\s*\)|[()\[\]]|[^\\()\[\]:]+|.", re.DOTALL)


@dataclass(frozen=True)
class Fragment:
    text: str
    weight: float


def parse(caption: str) -> list[Fragment]:
    """The caption in pieces of equal weight, without the marks. Brackets that are never closed count to the end."""
    pieces: list[list[object]] = []  # [text, weight]
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def scale(start: int, factor: float) -> None:
        for piece in pieces[start:]:
            piece[1] = float(piece[1]) * factor  # type: ignore[arg-type]

    for found in _TOKEN.finditer(caption):
        mark, number = found.group(0), found.group(1)
        if mark in opened:
            opened[mark].append(len(pieces))
        elif number is not None and opened["("]:
            scale(opened["("].pop(), float(number))
        elif mark == ")" and opened["("]:
            scale(opened["("].pop(), _ROUND)
        elif mark == "]" and opened["["]:
            scale(opened["["].pop(), _SQUARE)
        else:
            pieces.append([mark[1:] if mark.startswith("\\") and len(mark) == 2 else mark, 1.0])
    for start in opened["("]:
        scale(start, _ROUND)
    for start in opened["["]:
        scale(start, _SQUARE)
    return _joined(pieces)


def _joined(pieces: list[list[object]]) -> list[Fragment]:
    """Neighbours of the same weight as one: a word must not be cut where a mark had to be looked at."""
    joined: list[Fragment] = []
    for text, weight in pieces:
        assert isinstance(text, str) and isinstance(weight, float)
        if joined and joined[-1].weight == weight:
            joined[-1] = Fragment(joined[-1].text + text, weight)
        else:
            joined.append(Fragment(text, weight))
    return joined
