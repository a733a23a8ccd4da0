"""A study's table in Markdown and its figure in SVG, from whatever is measured so far."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence

from studies.differences import Difference, paired
from studies.plan import Plan

Numbers = Mapping[str, Mapping[str, Mapping[int, float]]]  # measure -> arm -> seed -> number
WIDTH, ROW, LEFT, RIGHT = 760, 24, 240, 170  # pixels


def table(plan: Plan, numbers: Numbers) -> str:
    """For each measure the mean of every arm, and its difference to the baseline with a 95 % interval."""
    study = plan.study
    lines = [f"# {study.title}", "", _facts(plan, numbers), ""]
    for name, measure in study.measures.items():
        better = "lower is better" if measure.lower_is_better else "higher is better"
        lines += [f"## {measure.title} ({better})", "", "| arm | mean | seeds | difference to the baseline | |"]
        lines += ["|---|---|---|---|---|", *(_row(plan, name, arm, numbers[name]) for arm in study.arms), ""]
    return "\n".join(lines)


def _facts(plan: Plan, numbers: Numbers) -> str:
    whole = sum(all(cell.seed in arms.get(cell.arm, {}) for arms in numbers.values()) for cell in plan.cells)
    return (
        f"Baseline: {plan.study.baseline}. {whole} of {len(plan.cells)} trainings are measured. Differences are in "
        "pairs of equal seeds, with 95 % intervals of Student's t over the seeds; one seed has no interval."
    )


def _row(plan: Plan, name: str, arm: str, arms: Mapping[str, Mapping[int, float]]) -> str:
    own = arms.get(arm, {})
    mean = f"{sum(own.values()) / len(own):.5g}" if own else "-"
    difference = None if arm == plan.study.baseline else paired(own, arms.get(plan.study.baseline, {}))
    verdict = "" if difference is None else _verdict(difference, plan.study.measures[name].lower_is_better)
    return f"| {arm} | {mean} | {len(own)} | {_shown(difference)} | {verdict} |"


def _shown(difference: Difference | None) -> str:
    if difference is None:
        return ""
    return f"{difference.mean:+.3g}" + (f" ± {difference.half_width:.2g}" if difference.pairs > 1 else "")


def _verdict(difference: Difference, lower_is_better: bool) -> str:
    if difference.pairs < 2:
        return "one seed"
    if not difference.clear:
        return "no clear difference"
    return "better" if (difference.mean < 0) == lower_is_better else "worse"


def figure(plan: Plan, numbers: Numbers) -> str:
    """For each measure a line per arm: its paired difference and interval, about zero."""
    parts, top = [], 10
    for name, measure in plan.study.measures.items():
        rows = [
            (arm, found)
            for arm in plan.study.arms
            if arm != plan.study.baseline
            and (found := paired(numbers[name].get(arm, {}), numbers[name].get(plan.study.baseline, {})))
        ]
        title = f"{measure.title}: difference to {plan.study.baseline}"
        parts += [f'<text x="10" y="{top + 14}" font-weight="bold">{html.escape(title)}</text>', *_rows(rows, top + 24)]
        top += 40 + ROW * max(1, len(rows))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" '
        f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )


def _rows(rows: Sequence[tuple[str, Difference]], top: int) -> Iterator[str]:
    ends = [abs(one.mean) + (one.half_width if math.isfinite(one.half_width) else 0) for _, one in rows]
    middle, half = (LEFT + WIDTH - RIGHT) / 2, (WIDTH - RIGHT - LEFT) / 2
    scale = half / (max(ends, default=0) or 1)
    yield f'<line x1="{middle}" x2="{middle}" y1="{top}" y2="{top + ROW * max(1, len(rows))}" stroke="#bbb"/>'
    for place, (arm, one) in enumerate(rows):
        y, x = top + ROW * (place + 0.5), middle + scale * one.mean
        yield f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{html.escape(arm)}</text>'
        if math.isfinite(one.half_width):
            low, high = x - scale * one.half_width, x + scale * one.half_width
            yield f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="#2a6fbb" stroke-width="2"/>'
        fill = "#2a6fbb" if one.clear else "white"
        yield f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{fill}" stroke="#2a6fbb" stroke-width="2"/>'
        yield f'<text x="{WIDTH - RIGHT + 10}" y="{y + 4}">{html.escape(_shown(one))}</text>'
