"""The list of what trains, for `check`: layer by layer with rank, alpha and learning rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trainer.adapters import injection
from trainer.adapters.weights import rank
from trainer.assembly.model import rates_of_parts
from trainer.config.schema.whole import BaseConfig
from trainer.files.atomic import write_text
from trainer.optim.parameters import Rates
from trainer.protocols import Family

DEPTH = 3  # names of a block that are told: unet.down_blocks.1
FILE = "what-trains.txt"


class Layer(NamedTuple):
    name: str  # with the part in front
    key: str  # kohya's
    rank: int  # 0 = it has none
    alpha: float
    rate: float


def adapted(config: BaseConfig, family: Family) -> list[Layer]:
    """The layers of a family whose adapters are in place."""
    rates = Rates(rates_of_parts(config, family), config.optimizer.rates)
    return [
        Layer(f"{a.part}.{a.module}", a.key, rank(a.weights), a.weights.alpha, rates.of(a.part, a.module))
        for a in injection.adapters(family)
    ]


def tell(config: BaseConfig, family: Family, folder: Path) -> Iterator[str]:
    """A line for the blocks whose adapters are alike; the whole list goes into a file of the run's folder."""
    found = adapted(config, family)
    if not found:
        return
    text = "".join(f"{one.name}\t{one.key}\t{_size(one)}, {_rate(one)}\n" for one in found)
    write_text(folder / FILE, text)
    counts = Counter((".".join(one.name.split(".")[:DEPTH]), _size(one), _rate(one)) for one in found)
    for (block, size, rate), count in counts.items():
        yield f"trains: {block}: {count} layers, {size}, {rate}"
    yield f"trains: {len(found)} layers in all, listed in {folder / FILE}"


def _size(one: Layer) -> str:
    return f"rank {one.rank}, alpha {one.alpha:g}" if one.rank else "no rank"


def _rate(one: Layer) -> str:
    return f"learning rate {one.rate:g}" if one.rate else "frozen"
