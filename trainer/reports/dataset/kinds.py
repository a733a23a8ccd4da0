"""Problems by kind: a title with their number, and the first few, by names that are short."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.reports.dataset.findings import DatasetProblem, DatasetReport

MORE = "and {count:,} more"


@dataclass(frozen=True)
class ProblemKind:
    title: str  # "too small: 12 images", "" where each problem stands for itself
    stops: bool
    problems: tuple[DatasetProblem, ...]

    def first(self, count: int) -> tuple[Sequence[DatasetProblem], str]:
        """The first ones, and how many more there are, in words."""
        rest = len(self.problems) - count
        return self.problems[:count], MORE.format(count=rest) if rest > 0 else ""


def by_kind(report: DatasetReport) -> Iterator[ProblemKind]:
    """In the order in which they are found; those that stop first."""
    found: dict[tuple[bool, str], list[DatasetProblem]] = {}
    for problem in report.problems:
        found.setdefault((problem.stops, problem.kind), []).append(problem)
    for (stops, kind), members in found.items():
        named = [DatasetProblem(short(p.file, report), short_in(p.what, report), p.stops, p.kind) for p in members]
        images = f"{len(members):,} image{'s' if len(members) > 1 else ''}"
        yield ProblemKind(f"{kind}: {images}" if kind else "", stops, tuple(named))


def short(file: str, report: DatasetReport) -> str:
    """Relative to its subset's folder; with that folder's name where there are several."""
    inside = [s.folder for s in report.subsets if file.startswith(s.folder + os.sep)]
    if not inside:
        return file
    folder = max(inside, key=len)
    name = file[len(folder) + 1 :]
    return name if len(report.subsets) == 1 else f"{os.path.basename(folder)}/{name}"  # noqa: PTH119


def short_in(text: str, report: DatasetReport) -> str:
    """The same for a file at the end of a text."""
    start = next((text.index(s.folder + os.sep) for s in report.subsets if s.folder + os.sep in text), None)
    return text if start is None else text[:start] + short(text[start:], report)
