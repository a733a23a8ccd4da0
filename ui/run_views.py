"""What a page shows of a run, as HTML: state, curves, newest samples, log."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.run_dir import RunDir
from ui.history import Event, History, number, whole
from ui.media import IMAGE_TYPES, Media
from ui.plots import WIDE, Line, chart, colour, smooth_line
from ui.status import PILLS, WORDS, Status, clock, rate_text, tail

LOG_LINES = 200
NEWEST_SAMPLES = 8


def status_html(name: str, found: Status, told: History) -> str:
    """The pill, the bar and the numbers."""
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
    loss = [
        Line("", x, y, "var(--body-text-color-subdued)", faint=True),
        Line("loss", *smooth_line(x, y), colour(0)),
    ]
    parts = [
        chart(
            loss, title="Training loss (smoothed; single steps behind it)", size=WIDE, empty="No step is finished yet."
        )
    ]
    if told.validations:
        parts.append(validation_chart(told))
    bins = sorted((n for n in told.curves if n.startswith("bins/")), key=lambda n: _first_number(n))
    if bins:
        lines = []
        for index, name in enumerate(bins):
            lines.append(Line(name.partition("/")[2], *smooth_line(*told.curve(name).arrays()), colour(index)))
        parts.append(chart(lines, title="Loss by timestep"))
    rates = [n for n in told.curves if n.startswith("lr/")]
    lines = [Line(n.partition("/")[2], *told.curve(n).arrays(), colour(i)) for i, n in enumerate(rates)]
    parts.append(chart(lines, title="Learning rate", from_zero=True))
    for curve, name, title in (
        ("images_per_second", "images/s", "Images per second"),
        ("grad_norm", "norm", "Gradient norm before clipping"),
    ):
        line = Line(name, *smooth_line(*told.curve(curve).arrays()), colour(4))
        parts.append(chart([line], title=title, from_zero=True))
    return f"<div class='charts'>{''.join(parts)}</div>"


def validation_chart(told: History) -> str:
    """Held-out loss over steps, with the 95 % interval of the difference to the base where that was measured."""
    events = told.validations
    x = np.array([whole(e.get("step")) for e in events], float)
    y = np.array([number(e.get("loss")) for e in events])
    train = np.array([number(e.get("training_loss")) for e in events])
    lines = [Line("held-out images", x, y, colour(0), dots=True, band=_band(events))]
    if np.isfinite(train).any():
        lines.append(Line("training images", x, train, colour(1), dots=True))
    said = html.escape(str(events[-1].get("message", "")))
    best = whole(events[-1].get("best"))
    marker = (float(best), f"best: step {best}") if best else None
    picture = chart(lines, title="Validation loss (fixed noise, the same for every checkpoint)", marker=marker)
    return picture.replace("</figure>", f"<p class='quiet'>{said}</p></figure>")


def _band(events: Sequence[Event]) -> tuple[np.ndarray, np.ndarray] | None:
    """The interval of the improvement over the base, as losses."""
    low, high = [], []
    for event in events:
        better, base = event.get("better"), number(event.get("base_loss"))
        whole_interval = isinstance(better, list) and len(better) == 3
        low.append(base * (1 - number(better[2])) if whole_interval and better else number(event.get("loss")))
        high.append(base * (1 - number(better[1])) if whole_interval and better else number(event.get("loss")))
    lows, highs = np.array(low), np.array(high)
    usable = np.isfinite(lows).all() and np.isfinite(highs).all() and bool((highs > lows).any())
    return (lows, highs) if usable and len(events) > 1 else None


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


def log_html(*files: Path) -> str:
    """The end of the first of these logs that has anything."""
    for file in files:
        if lines := tail(file, LOG_LINES):
            return f"<pre class='log' tabindex='0'>{html.escape(chr(10).join(lines))}</pre>"
    return "<pre class='log' tabindex='0'>Nothing was written yet.</pre>"
