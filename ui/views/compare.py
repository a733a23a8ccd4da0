"""Runs next to each other: what differs between their settings, their curves, their samples."""

from __future__ import annotations

import html
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.journal.run_dir import RunDir
from trainer.reports.plot import SMALL, WIDE, Axis, Series, colour, line_plot
from ui.draft.fields import toml_literal
from ui.server.media import Media
from ui.views.run import STEP, samples_of
from ui.views.shelf import size_text
from ui.views.smoothing import smooth_line
from ui.work.history import history, number, whole
from ui.work.results import files_of

MOST = 6  # runs next to each other
REPORTS = {
    "learning-report.html": "Learning report",
    "noise-report.html": "Noise report",
    "dataset-report.html": "Dataset report",
}
# Follows from where a run lies, or is different by nature.
UNINTERESTING = {"run.name", "run.output_dir"}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in nested tables."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                yield from flat(item, f"{prefix}{key}[{index}].")
        else:
            yield f"{prefix}{key}", value


def settings(run: RunDir) -> dict[str, Any]:
    """What the run was asked for, by dotted key; {} where its config can't be read."""
    try:
        return dict(flat(tomllib.loads(run.config.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def differing(runs: Sequence[RunDir]) -> list[tuple[str, list[Any]]]:
    """(key, value in each run) of every setting that is not the same in all of them; None = not set."""
    found = [settings(run) for run in runs]
    keys = dict.fromkeys(key for one in found for key in one)
    rows = [(key, [one.get(key) for one in found]) for key in keys if key not in UNINTERESTING]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values[1:])]


def shown_value(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else toml_literal(value)


def settings_html(names: Sequence[str], runs: Sequence[RunDir]) -> str:
    if len(runs) < 2:
        return "<p class='quiet'>Choose a second run to see what differs.</p>"
    rows = differing(runs)
    if not rows:
        return "<p class='quiet'>Their settings are the same.</p>"
    head = "".join(f"<th>{_dot(i)}{html.escape(name)}</th>" for i, name in enumerate(names))
    body = "".join(
        f"<tr><td><code>{html.escape(key)}</code></td>"
        + "".join(f"<td>{html.escape(shown_value(value))}</td>" for value in values)
        + "</tr>"
        for key, values in rows
    )
    return f"<table class='plain'><tr><th>Setting</th>{head}</tr>{body}</table>"


def _dot(index: int) -> str:
    return f"<i class='dot' style='background:{colour(index)}'></i>"


def curves_html(names: Sequence[str], runs: Sequence[RunDir]) -> str:
    """Training loss, validation loss and improvement over the base, one colour for each run."""
    loss, held_out, better = [], [], []
    for name, run in zip(names, runs, strict=True):
        told = history(run)
        loss.append(Series(name, *smooth_line(*told.curve("loss").arrays())))
        if told.validations:
            at = [whole(e.get("step")) for e in told.validations]
            held_out.append(Series(name, at, [number(e.get("loss")) for e in told.validations], points=True))
            gains = [e.get("better") for e in told.validations]
            means = [number(g[0]) * 100 if isinstance(g, list) and len(g) == 3 else None for g in gains]
            better.append(Series(name, at, means, points=True))
        else:  # every plot gives a run the same colour
            held_out.append(Series(name, [], []))
            better.append(Series(name, [], []))
    none = "None of these runs has finished a step."
    parts = [line_plot("Training loss, smoothed", loss, STEP, Axis(""), size=WIDE, empty=none)]
    if any(len(line.x) for line in held_out):
        parts.append(line_plot("Validation loss", held_out, STEP, Axis(""), size=SMALL))
    if any(np.isfinite(np.array(line.y, float)).any() for line in better):
        parts.append(line_plot("Better than the base, in %", better, STEP, Axis(""), size=SMALL))
    note = (
        "<p class='quiet'>Noise Oversampling changes what the training loss measures: compare runs with and without it "
        "by validation loss and by samples, not by training loss.</p>"
        if _noise_differs(runs)
        else ""
    )
    return f"<div class='charts'>{''.join(parts)}</div>{note}"


def _noise_differs(runs: Sequence[RunDir]) -> bool:
    return any(key.startswith("noise.") for key, _ in differing(runs)) if len(runs) > 1 else False


def sample_steps(runs: Sequence[RunDir]) -> list[int]:
    """Steps at which samples were drawn, those that all runs share first, the newest first."""
    steps = [{whole(e.get("step")) for e in history(run).samples} for run in runs]
    if not steps:
        return []
    common = set.intersection(*steps)
    return sorted(common, reverse=True) + sorted(set.union(*steps) - common, reverse=True)


def samples_html(media: Media, names: Sequence[str], runs: Sequence[RunDir], step: int) -> str:
    """One row for each prompt, one column for each run."""
    columns = []
    for run in runs:
        event = next((e for e in reversed(history(run).samples) if whole(e.get("step")) == step), {})
        columns.append(dict(enumerate(samples_of(run, event))))
    count = max((len(column) for column in columns), default=0)
    if not count:
        return "<p class='quiet'>No samples at this step.</p>"
    head = "".join(f"<th>{_dot(i)}{html.escape(name)}</th>" for i, name in enumerate(names))
    rows = []
    for index in range(count):
        prompt = next((column[index][1] for column in columns if index in column), "")
        cells = "".join(f"<td>{_picture(media, column.get(index))}</td>" for column in columns)
        rows.append(f"<tr><td class='quiet'>{html.escape(prompt)}</td>{cells}</tr>")
    return f"<table class='side-by-side'><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _picture(media: Media, found: tuple[Path, str] | None) -> str:
    if found is None:
        return "<span class='quiet'>none</span>"
    url = media.url("image", found[0])
    alt = html.escape(found[1], quote=True)
    return f"<a href='{url}' target='_blank' rel='noopener'><img src='{url}' alt='{alt}' loading='lazy'></a>"


def files_html(media: Media, names: Sequence[str], runs: Sequence[RunDir]) -> str:
    """Results and reports to open or download."""
    parts = []
    for index, (name, run) in enumerate(zip(names, runs, strict=True)):
        links = [
            f"<a href='{media.url('report', run.path / file)}' target='_blank' rel='noopener'>{title}</a>"
            for file, title in REPORTS.items()
            if (run.path / file).is_file()
        ]
        wanted = [*files_of(run), *(p for p in (run.config, run.log, run.metrics) if p.is_file())]
        links += [
            f"<a href='{media.url('download', p)}' download>{html.escape(p.name)}</a> "
            f"<span class='quiet'>{size_text(p.stat().st_size)}</span>"
            for p in wanted
        ]
        items = "".join(f"<li>{link}</li>" for link in links)
        parts.append(f"<div><h3>{_dot(index)}{html.escape(name)}</h3><ul class='files'>{items}</ul></div>")
    return f"<div class='columns'>{''.join(parts)}</div>"
