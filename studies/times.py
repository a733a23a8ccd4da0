"""How often plain noise must draw each timestep to be as noisy as paired noise is.

It is the control that tells whether pairing is more than a shift of the signal-to-noise ratio.
python -m studies.times REPORT (the noise-report.json of `noise CONFIG` with a pairing stage turned on) prints the
settings of such an arm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

Array = NDArray[np.float64]
SLICES = 100
FINE = 20_000  # places in the range that stand for all


def weights(angles: Array, pull: float, scale: float, slices: int = SLICES) -> list[float]:
    """Relative frequency of equal slices of the range, clean to noisy, for timesteps.weights; their mean is 1.

    Timesteps drawn so have, with plain noise n', the signal-to-noise ratios of uniform ones with c x + s n' (c: pull,
    s: scale). angles: atan(sigma / alpha) of all timesteps, rising.
    """
    angles = np.concatenate([[0.0], angles])  # the range begins at the image alone
    places, even = (np.arange(FINE) + 0.5) / FINE, np.linspace(0, 1, len(angles))
    at = np.interp(places, even, angles)
    paired = np.arctan2(scale * np.sin(at), np.cos(at) + pull * np.sin(at))
    counts, _ = np.histogram(np.interp(paired, angles, even), bins=slices, range=(0, 1))
    return [round(float(count) * slices / FINE, 3) for count in counts]


def _configured(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for stage in report.values():
        if isinstance(stage, dict):
            yield from (one for one in stage.values() if isinstance(one, dict) and one.get("configured"))


def main(report: Annotated[Path, typer.Argument(help="noise-report.json of a config with one pairing stage.")]) -> None:
    """Print the timesteps at which plain noise is as noisy as paired noise is."""
    try:
        read = json.loads(report.read_text(encoding="utf-8"))
        (found,) = _configured(read)
        drawn = weights(np.array(read["angles"]), found["pull"], found["scale"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        typer.echo(f"{report}: not the report of a config with one pairing stage turned on ({error}).", err=True)
        raise typer.Exit(2) from error
    typer.echo('"timesteps.distribution" = "weights"')
    typer.echo(f'"timesteps.weights" = {json.dumps(drawn)}')


if __name__ == "__main__":
    typer.run(main)
