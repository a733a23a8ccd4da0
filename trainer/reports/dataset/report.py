"""The dataset report of a run: examines what was scanned, writes the files and tells the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.data.dataset import Dataset
from trainer.files.atomic import write_text
from trainer.journal.console import Console
from trainer.reports.dataset import page as dataset_page
from trainer.reports.dataset.console import lines
from trainer.reports.dataset.cutoff import Cutter
from trainer.reports.dataset.findings import DatasetReport, examine, to_json


def check(
    dataset: Dataset,
    *,
    name: str,
    folder: Path,
    seed: int,
    steps: int,
    batches_per_step: int,
    console: Console,
    cutter: Cutter | None = None,
    estimate: Sequence[str] = (),
    needs: Mapping[str, float] | None = None,
    refused: Sequence[str] = (),
    token_limit: int = 0,
) -> DatasetReport:
    """Writes dataset-report.html and dataset-report.json into the run's `folder`, and prints what they say.

    dataset: scanned with keep_going, so that everything wrong with it is in the report; the rest as in `examine`.
    """
    with console.progress("looking at images", len(dataset.items), "images") as update:
        report = examine(
            dataset,
            seed=seed,
            steps=steps,
            batches_per_step=batches_per_step,
            cutter=cutter,
            estimate=estimate,
            needs=needs,
            refused=refused,
            token_limit=token_limit,
            on_progress=lambda done, _: update(done, ""),
        )
    page, data = folder / "dataset-report.html", folder / "dataset-report.json"
    dataset_page.write(report, name, page)
    write_text(data, json.dumps(to_json(report), indent=2) + "\n")
    for line in lines(report):
        console.say(line)
    console.say(f"Written: {page} and {data.name}")
    return report
