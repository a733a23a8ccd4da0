"""What a page shows of a run, as HTML: state, curves, newest samples, log."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

from trainer.journal.run_dir import RunDir
from trainer.reports.html import Html
from trainer.reports.plot import SMALL, WIDE, Axis, Marker, Series, line_plot
from ui.server.media import IMAGE_TYPES, Media
from ui.views.smoothing import smooth_line
from ui.work.history import Event, History, number, whole
from ui.work.status import PILLS, WORDS, Status, clock, rate_text, tail

LOG_LINES = 200
MOST_LINES = 1_000_000  # that are searched
TAIL, MOST_LOG = 64 * 1024, 16 * 1024 * 1024  # bytes of a log that are read, and that are searched
NEWEST_SAMPLES = 8
STEP, FROM_ZERO = Axis("step"), Axis("", zero=True)


def status_html(name: str, found: Status, told: History, more: Sequence[tuple[str, str]] = ()) -> str:
    """The pill, the bar and the numbers; `more`: further ones."""
    share = found.step / found.steps * 100 if found.steps else 0
    facts = [
        ("Step", f"{found.step:,} of {found.steps:,}" if found.steps else "-"),
        ("Left", clock(found.seconds_left) if found.state == "training" and found.seconds_left is not None else "-"),
        ("Speed", rate_text(found.rate)),
        ("Loss", f"{_loss_now(told):.4g}" if told.count and math.isfinite(_loss_now(told)) else "-"),
        ("Epoch", f"{found.epoch:.1f}" if math.isfinite(found.epoch) else "-"),
        ("Learning rate", _rates(told)),
        ("Memory", _memory(told)),
        ("Device", found.device or "-"),
        *more,
    ]
    cells = "".join(f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts if v)
    said = ""
    if found.message:
        kind = "bad-text" if found.state in ("failed", "ended") else "quiet"
        said = f"<p class='{kind}'>{html.escape(found.message)}</p>"
    pill = f"<span class='pill {PILLS[found.state]}'>{WORDS[found.state]}</span>"
    return (
        f"<div class='run-head'><b>{html.escape(name)}</b>{pill}</div>"
        f"<div class='bar-track' role='progressbar' aria-valuenow='{share:.0f}' aria-valuemin='0' aria-valuemax='100' "
        f"aria-label='Progress'><i style='width:{share:.2f}%' class='{PILLS[found.state]}'></i></div>"
        f"<dl class='facts'>{cells}</dl>{said}"
    )


def _loss_now(told: History) -> float:
    _, y = smooth_line(*told.curve("loss").arrays())
    return float(y[-1]) if len(y) else math.nan


def _rates(told: History) -> str:
    rates = told.last_step.get("lr")
    if not isinstance(rates, dict):
        return "-"
    shown = {f"{number(v):.3g}" for v in rates.values()}
    return ", ".join(sorted(shown)) if len(shown) < 3 else f"{len(shown)} rates"


def _memory(told: History) -> str:
    for name, unit in (("memory_gb", 1.0), ("memory", 1 / 2**30)):
        if len(curve := told.curve(name)):
            return f"{curve.values[-1] * unit:.1f} GB"
    return ""


def curves_html(told: History) -> str:
    """The charts of one run."""
    x, y = told.curve("loss").arrays()
    loss = [Series("single steps", x, y, faint=True), Series("loss", *smooth_line(x, y))]
    title = "Training loss (smoothed; single steps behind it)"
    parts = [line_plot(title, loss, STEP, Axis(""), size=WIDE, empty="No step is finished yet.")]
    if told.validations:
        parts.append(validation_chart(told))
    bins = sorted((n for n in told.curves if n.startswith("bins/")), key=_first_number)
    if bins:
        lines = [Series(_inner(n), *smooth_line(*told.curve(n).arrays())) for n in bins]
        parts.append(line_plot("Loss by timestep", lines, STEP, Axis(""), ramp=True, size=SMALL))
    rates = [Series(_inner(n), *told.curve(n).arrays()) for n in told.curves if n.startswith("lr/")]
    if rates:
        parts.append(line_plot("Learning rate", rates, STEP, FROM_ZERO, size=SMALL))
    for curve, name, title in (
        ("preservation", "loss", "What is held to the base"),
        ("images_per_second", "images/s", "Images per second"),
        ("grad_norm", "norm", "Gradient norm before clipping"),
    ):
        if len(told.curve(curve)):
            line = Series(name, *smooth_line(*told.curve(curve).arrays()))
            parts.append(line_plot(title, [line], STEP, FROM_ZERO, size=SMALL))
    return f"<div class='charts'>{''.join(parts)}</div>"


def _inner(name: str) -> str:
    return name.partition("/")[2]


def validation_chart(told: History) -> Html:
    """Held-out loss over steps, with the 95 % interval of the difference to the base where that was measured."""
    events = told.validations
    x = [whole(e.get("step")) for e in events]
    low, high = _band(events)
    lines = [Series("held-out images", x, [number(e.get("loss")) for e in events], low, high, points=True)]
    train = [number(e.get("training_loss")) for e in events]
    if any(math.isfinite(value) for value in train):
        lines.append(Series("training images", x, train, points=True))
    best = whole(events[-1].get("best"))
    markers = [Marker(best, f"best: step {best}")] if best else []
    title = "Validation loss (fixed noise, the same for every checkpoint)"
    said = str(events[-1].get("message", ""))
    return line_plot(title, lines, STEP, Axis(""), remark=said, markers=markers, size=SMALL)


def _band(events: Sequence[Event]) -> tuple[list[float], list[float]] | tuple[None, None]:
    """The interval of the improvement over the base, as losses."""
    low, high = [], []
    for event in events:
        better, base = event.get("better"), number(event.get("base_loss"))
        measured = better if isinstance(better, list) and len(better) == 3 else None
        low.append(base * (1 - number(measured[2])) if measured else number(event.get("loss")))
        high.append(base * (1 - number(measured[1])) if measured else number(event.get("loss")))
    usable = all(map(math.isfinite, [*low, *high])) and any(h > low_ for low_, h in zip(low, high, strict=True))
    return (low, high) if usable and len(events) > 1 else (None, None)


def _first_number(name: str) -> int:
    digits = name.partition("/")[2].partition("-")[0]
    return int(digits) if digits.isdigit() else 0


def samples_of(run: RunDir, event: Event) -> list[tuple[Path, str]]:
    """(file, prompt) of a sample event; only pictures that lie in the run's own folder of samples."""
    files, prompts = event.get("files"), event.get("prompts")
    prompts = prompts if isinstance(prompts, list) else []
    found = []
    for index, file in enumerate(files if isinstance(files, list) else []):
        path = run.path / str(file)
        inside = path.resolve().is_relative_to(run.samples.resolve())
        if inside and path.suffix.lower() in IMAGE_TYPES and path.is_file():
            found.append((path, str(prompts[index]) if index < len(prompts) else ""))
    return found


def samples_html(media: Media, run: RunDir, told: History) -> str:
    """The newest samples of every step that drew some, the newest first."""
    parts = []
    left = NEWEST_SAMPLES
    for event in reversed(told.samples):
        pictures = samples_of(run, event)[:left]
        if pictures:
            left -= len(pictures)
            parts.append(f"<h3>Step {whole(event.get('step')):,}</h3>{pictures_html(media, pictures)}")
        if left <= 0:
            break
    if parts:
        return "".join(parts)
    return (
        "<p class='quiet'>No samples yet. Prompts that are drawn during training are set on the Setup page, "
        "<button type='button' class='link' data-show='f-samples-prompts'>Samples</button>.</p>"
    )


def pictures_html(media: Media, pictures: Sequence[tuple[Path, str]]) -> str:
    cells = "".join(
        f"<figure><a href='{media.url('image', path)}' target='_blank' rel='noopener'>"
        f"<img src='{media.url('image', path)}' alt='{html.escape(text, quote=True)}' loading='lazy'></a>"
        f"<figcaption title='{html.escape(text, quote=True)}'>{html.escape(text)}</figcaption></figure>"
        for path, text in pictures
    )
    return f"<div class='pictures'>{cells}</div>"


def log_html(*files: Path, find: str = "") -> str:
    """The end of the first of these logs that has anything; `find`: only lines with all of these words."""
    words = find.lower().split()
    for file in files:
        if lines := tail(file, LOG_LINES if not words else MOST_LINES, MOST_LOG if words else TAIL):
            lines = [line for line in lines if all(word in line.lower() for word in words)][-LOG_LINES:]
            if not lines:
                return f"<pre class='log' tabindex='0'>No line has {html.escape(find)}.</pre>"
            return f"<pre class='log' tabindex='0'>{html.escape(chr(10).join(lines))}</pre>"
    return "<pre class='log' tabindex='0'>Nothing was written yet.</pre>"
