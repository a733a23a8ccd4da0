"""The dataset report for a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from trainer.reports.dataset.findings import DatasetReport
from trainer.reports.dataset.kinds import by_kind

LISTED, STOPPING = 3, 20  # problems of a kind that are printed, and of one that stops
WIDEST = 30  # characters of a bucket's bar


def show(report: DatasetReport, console: Console) -> None:
    """Prints the report: subsets, buckets, problems, and what would train."""
    console.print(Group(*_parts(report)))


def lines(report: DatasetReport, width: int = 110) -> list[str]:
    """The same as plain lines."""
    text = io.StringIO()
    show(report, Console(file=text, width=width, no_color=True, soft_wrap=True))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def _parts(report: DatasetReport) -> Iterable[RenderableType]:
    yield _subsets(report)
    yield Text("")
    yield _buckets(report)
    yield Text("")
    for note in report.notes:
        yield Text(f"note: {note}")
    for kind in by_kind(report):
        style = "red" if kind.stops else "yellow"
        indent = "  " if kind.title else ""
        first, more = kind.first(STOPPING if kind.stops else LISTED)
        if kind.title:
            yield Text(kind.title, style=style)
        yield from (Text(f"{indent}{problem.file}: {problem.what}", style=style) for problem in first)
        if more:
            yield Text(f"{indent}{more}", style=style)
    captions, cut = report.counts(), report.cut_off()
    yield Text(
        f"captions: {captions['found']:,} found, {captions['missing']:,} missing, {captions['empty']:,} empty, "
        + ("cut off: not counted" if cut is None else f"{cut:,} cut off{_limit(report)}")
    )
    for line in report.estimate:
        yield Text(line)
    batches = ", ".join(f"{count:,} of {size}" for size, count in report.batch_sizes)
    yield Text(
        f"{len(report.shown):,} images, {report.samples_per_epoch:,} samples in {report.batches_per_epoch:,} batches "
        f"per epoch ({batches})"
    )
    epochs = report.steps / report.steps_per_epoch
    yield Text(f"training: {report.steps:,} steps of {report.steps_per_epoch:,} an epoch, {epochs:,.1f} epochs")
    if report.stops:
        yield Text("Training would not start: see the lines in red.", style="bold red")


def _limit(report: DatasetReport) -> str:
    return f" (they are read up to {report.token_limit} tokens: model.max_tokens)" if report.token_limit else ""


def _subsets(report: DatasetReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("subset")
    table.add_column("folder", overflow="fold")
    masked = any(s.masks for s in report.subsets)
    for name in ("images", "repeats", "an epoch", "captions", "missing", "empty", *(("masks",) if masked else ())):
        table.add_column(name, justify="right")
    for s in report.subsets:
        numbers = (s.images, s.repeats, round(s.samples), s.found, s.missing, s.empty, *((s.masks,) if masked else ()))
        kind = " (regularisation)" if s.kind == "regularisation" else ""
        table.add_row(Text(s.where + kind), Text(s.folder), *(f"{number:,}" for number in numbers))
    return table


def _buckets(report: DatasetReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("bucket")
    table.add_column("images", justify="right")
    table.add_column("cropped", justify="right")
    table.add_column("")
    most = max(bucket.images for bucket in report.buckets)
    for bucket in report.buckets:
        bar = "█" * max(1, round(WIDEST * bucket.images / most))
        table.add_row(f"{bucket.size[0]}x{bucket.size[1]}", f"{bucket.images:,}", f"{bucket.cropped:.1%}", bar)
    return table
