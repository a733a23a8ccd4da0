"""What a dataset report is about: the images that would train, for how long, and what counts their captions' tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.assembly.data import held_out_lines, split_of
from trainer.assembly.model import token_room_of, tokenizer_of
from trainer.assembly.pace import pace_of
from trainer.config.schema.whole import BaseConfig
from trainer.data.dataset import Dataset
from trainer.data.order.holdout import Split
from trainer.data.order.plan import Plan
from trainer.data.sources.scan import scan
from trainer.errors import UserError
from trainer.reports.dataset.cutoff import SPECIAL, Cutter, cutter
from trainer.training.pace import Pace


@dataclass(frozen=True)
class Subject:
    split: Split
    pace: Pace
    cutter: Cutter | None
    notes: tuple[str, ...]  # lines for a person: of the scan, the holdout, and why tokens are not counted
    token_limit: int = 0  # of a caption, without begin and end; 0 = unknown

    @property
    def training(self) -> Dataset:
        """What trains, with all notes."""
        return replace(self.split.training, notes=self.notes)


def subject_of(
    config: BaseConfig,
    *,
    config_dir: Path,
    size_multiple: int = 8,
    cell: int = 0,
    reads_captions: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Subject:
    """Loads no weights. size_multiple, cell, reads_captions: as `scan` takes them; on_progress: is told how
    many of how many images were read. Raises UserError for what is wrong with whole subsets."""
    scanned = scan(
        config.datasets,
        config.general,
        config.data,
        config_dir=config_dir,
        size_multiple=size_multiple,
        cell=cell,
        reads_captions=reads_captions,
        keep_going=True,
        on_progress=on_progress,
    )
    split = split_of(config, scanned)
    counts, limit, uncounted = token_counter(config)
    notes = (*split.training.notes, *held_out_lines(config, split), *uncounted)
    pace = pace_of(config, Plan(split.training, config.run.seed).batches_per_epoch, 1)
    return Subject(split, pace, counts, notes, limit)


def token_counter(config: BaseConfig) -> tuple[Cutter | None, int, list[str]]:
    """What counts tokens, how many are read, or why nothing does."""
    try:
        tokenizer = tokenizer_of(config)
    except UserError as error:
        return None, 0, [f"Tokens are not counted: {error.problems[0]}"]
    room = token_room_of(config, tokenizer)
    return cutter(tokenizer, room + SPECIAL), room, []
