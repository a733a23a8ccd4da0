"""The noise report of a run from its data: encodes a sample, measures, writes the files and tells the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch

from trainer.data.cache.encode import Stored, Variant
from trainer.device.placement import VAE
from trainer.files.atomic import write_text
from trainer.journal.console import Console
from trainer.journal.run_dir import RunDir
from trainer.protocols import Family
from trainer.reports.noise.advice import LOSS, advice, headline
from trainer.reports.noise.columns import lines
from trainer.reports.noise.comparison import NoiseReport, ReportRequest, report, settings_of
from trainer.reports.noise.effect import FlatLatents
from trainer.reports.noise.page import noise_page
from trainer.reports.noise.sample import LatentSample, encode, read, restricted, sample

__all__ = ["ReportRequest", "latents_of", "read_latents", "restricted", "sample", "write", "write_and_tell"]


@torch.no_grad()
def latents_of(found: LatentSample, family: Family, device: torch.device, console: Console) -> FlatLatents:
    """Encodes the sample on `device`, where the latents stay if it counts in float64."""
    family.to(device, torch.float32, [VAE])
    with console.progress("encoding images", len(found.items), "images") as update:
        made = encode(found, lambda pixels: family.encode_images(pixels.to(device)), lambda done, _: update(done, ""))
    return FlatLatents.of(made.to(_measured_on(device)), found.captions)


def read_latents(found: LatentSample, stored: Callable[[Variant], Stored], device: torch.device) -> FlatLatents:
    """The sample's latents from a cache of its images, `restricted`."""
    return FlatLatents.of(read(found, stored).to(_measured_on(device)), found.captions)


def _measured_on(device: torch.device) -> torch.device:
    """Metal has no float64, in which the report adds up."""
    return torch.device("cpu") if device.type == "mps" else device


@torch.no_grad()
def write_and_tell(latents: FlatLatents, asked: ReportRequest, run_dir: RunDir, console: Console) -> None:
    with console.progress("measuring", settings_of(asked, len(latents)), "settings") as update:
        found = report(latents, asked, lambda done, _: update(done, ""))
    write(found, run_dir)
    tell(found, run_dir, console)


def write(found: NoiseReport, run_dir: RunDir) -> None:
    """noise-report.json and noise-report.html. A folder with these alone does not count as a used run."""
    write_text(run_dir.path / "noise-report.json", json.dumps(found.as_dict(), indent=2, allow_nan=False) + "\n")
    write_text(run_dir.path / "noise-report.html", noise_page(found, run_dir.name))


def tell(found: NoiseReport, run_dir: RunDir, console: Console) -> None:
    console.say(headline(found))
    console.say("")
    for one in advice(found):
        console.say(f"* {one.head}. {one.text}")
    console.say(f"* {LOSS}")
    console.say("")
    for line in lines(found):
        console.say(line)
    console.say("")
    console.say(f"Written: {run_dir.path / 'noise-report.html'} and noise-report.json")
