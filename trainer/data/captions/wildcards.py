"""Expands {one|of|these} in captions; doubled braces stand for themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import product

# A doubled brace, or a group: what stands between single braces, in which doubled ones may occur.
_TOKEN = re.compile(r"\{\{|\}\}|\{((?:\{\{|\}\}|[^{}])+)\}")


def expand(text: str, choose: Callable[[Sequence[str]], str]) -> str:
    """The text with each group replaced by what `choose` takes from its options, from left to right."""

    def replaced(match: re.Match[str]) -> str:
        group = match.group(1)
        return match.group()[0] if group is None else _plain(choose(group.split("|")))

    return _TOKEN.sub(replaced, text)


def outcomes(text: str, limit: int) -> list[str]:
    """Everything that `expand` can make of a text, or nothing when there are more than `limit` ways to choose."""
    groups = [match.group(1).split("|") for match in _TOKEN.finditer(text) if match.group(1) is not None]
    if math.prod(map(len, groups)) > limit:
        return []
    return [expand(text, _in_turn(iter(picked))) for picked in product(*groups)]


def _in_turn(picked: Iterator[str]) -> Callable[[Sequence[str]], str]:
    return lambda _: next(picked)


def _plain(option: str) -> str:
    return option.replace("{{", "{").replace("}}", "}")
