"""What `score` does: how far a folder of pictures is from a reference, in the features of a model that is named."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from trainer.commands.quiet import loading
from trainer.errors import UserError
from trainer.files.atomic import write_text
from trainer.journal.console import Console

MANY = 10_000  # pictures whose kernel takes 800 MB


def score(
    folder: Path,
    reference: Path,
    features: str,
    *,
    side: int,
    range: str,
    most: int,
    resamples: int,
    seed: int,
    into: Path | None,
) -> None:
    """Tells Frechet distance, KID, precision and recall with 95 % intervals; into: a JSON file for them too.

    most: pictures of each folder that count, 0 = all. Raises UserError for folders with too few pictures.
    """
    with loading():
        import torch

        from trainer.reports.scores import features as extractors
        from trainer.reports.scores import pictures, scores
    paths = [
        pictures.files(place, most, seed, where) for place, where in ((folder, "FOLDER"), (reference, "REFERENCE"))
    ]
    for place, found in zip((folder, reference), paths, strict=True):
        if len(found) < scores.LEAST:
            raise UserError(f"{place}: {len(found)} pictures in it; {scores.LEAST} are needed, thousands are usual.")
        if len(found) > MANY:
            raise UserError(f"{place}: {len(found):,} pictures in it; --images {MANY} takes so many of them by chance.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    extractor = extractors.named(features, side=side, range=range, device=device)
    console = Console()
    console.say(f"features: {extractor.told}")
    rows = []
    for found, what in zip(paths, ("drawn", "reference"), strict=True):
        with console.progress(f"{what} pictures", len(found), "pictures") as update:
            rows.append(
                extractor.features(pictures.batches(found, extractor.side, lambda done: update(done, "")), device)
            )
    with console.progress("resampling", resamples, "times") as update:
        told = scores.scores(*rows, resamples=resamples, seed=seed, on_progress=lambda done, _: update(done, ""))
    console.say(f"{len(rows[0]):,} pictures against {len(rows[1]):,}, {rows[0].shape[1]:,} features")
    for one in told:
        console.say(str(one))
    if len(rows[0]) <= rows[0].shape[1]:
        console.say("fewer pictures than features: the Frechet distance says little and is too large; KID is sound.")
    if into is not None:
        content = {
            "features": extractor.told,
            "pictures": [len(row) for row in rows],
            "scores": [asdict(one) for one in told],
        }
        write_text(into, json.dumps(content, indent=2) + "\n")
