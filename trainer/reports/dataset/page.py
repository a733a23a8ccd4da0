"""The dataset report as a page: what trains, what is odd, and every image with its crop and its captions."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.data.pictures.files import printable
from trainer.files.atomic import write_text
from trainer.reports.dataset.findings import DatasetProblem, DatasetReport, Shown, TrainedCaption
from trainer.reports.dataset.kinds import ProblemKind, by_kind
from trainer.reports.html import (
    Figure,
    Html,
    bullets,
    callout,
    details,
    element,
    figures,
    joined,
    page,
    paragraph,
    section,
    table,
)
from trainer.reports.plot import Bar, bar_plot

LISTED = 100  # problems of a kind that the page lists
CARDS = 10_000  # images that the page shows

STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: .7rem;
  margin: .8rem 0; align-items: start; }
.card { display: grid; grid-template-columns: 112px 1fr; gap: .7rem; background: var(--panel);
  border: 1px solid var(--line); border-radius: .6rem; padding: .6rem; content-visibility: auto;
  contain-intrinsic-size: auto 9rem; overflow: hidden; }
.card.odd { border-color: var(--caution); }
.card h4 { margin: 0 0 .2rem; font-size: .86rem; overflow-wrap: anywhere; }
.card p, .card ol { margin: .15rem 0; font-size: .8rem; overflow-wrap: anywhere; }
.card ol { padding-left: 1.1rem; max-height: 11rem; overflow-y: auto; }
.card li { margin: .1rem 0; } .card .bad { color: var(--bad); }
.thumb { position: relative; align-self: start; justify-self: center; line-height: 0; }
.thumb img { max-width: 112px; max-height: 112px; display: block; border-radius: .2rem; }
.thumb .crop { position: absolute; outline: 2px solid #ff3b6b; outline-offset: -2px;
  box-shadow: 0 0 0 200px rgba(0, 0, 0, .45); }
.thumb .clip { position: absolute; inset: 0; overflow: hidden; border-radius: .2rem; }
.thumb + .mask { display: block; }
.card .left { display: flex; flex-direction: column; gap: .4rem; align-items: center; }
.card .left .mask { max-width: 112px; max-height: 60px; border: 1px solid var(--line); }
.card s { color: var(--bad); text-decoration-thickness: 2px; }
.bucketed summary { font-size: 1rem; }
"""


def render(report: DatasetReport, name: str) -> Html:
    """The whole document. `name`: of the run."""
    return page(
        f"Dataset of {name}",
        element("style", Html(STYLE)),
        _verdict(report),
        _figures(report),
        _problems(report),
        _subsets(report),
        _buckets(report),
        _tags(report),
        _duplicates(report),
        _images(report),
        lead=_lead(report),
    )


def write(report: DatasetReport, name: str, path: Path) -> None:
    """Writes the page, replacing an older one."""
    write_text(path, render(report, name))


def _lead(report: DatasetReport) -> str:
    usable = sum(not shown.look.broken for shown in report.shown)
    epochs = report.steps / report.steps_per_epoch
    return (
        f"{usable:,} images train {report.samples_per_epoch:,} times an epoch, in {report.batches_per_epoch:,} "
        f"batches; {report.steps:,} steps are {epochs:,.1f} epochs."
    )


def _verdict(report: DatasetReport) -> Html:
    stopping = [problem for problem in report.problems if problem.stops]
    if stopping:
        return callout(
            f"Training would not start because of {_counted(len(stopping), 'problem')}, in bold below. "
            "data.skip_broken = true leaves broken images out.",
            mood="bad",
        )
    if report.problems:
        things = _counted(len(report.problems), "thing")
        return callout(f"Training would start, with {things} worth a look.", mood="caution")
    return callout("Training would start, and nothing looks odd.", mood="good")


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _figures(report: DatasetReport) -> Html:
    captions, cut = report.counts(), report.cut_off()
    without = captions["missing"] + captions["empty"]
    short = sum(count for size, count in report.batch_sizes if size < report.batch_sizes[0][0])
    batches = f"{short:,} of {report.batches_per_epoch:,} batches are short"
    return figures(
        [
            Figure(f"{len(report.shown):,}", "images", f"{report.samples_per_epoch:,} samples an epoch"),
            Figure(
                f"{captions['found']:,}",
                "with a caption of their own",
                f"{captions['missing']:,} missing, {captions['empty']:,} empty",
                "caution" if without else "good",
            ),
            Figure(
                "not counted" if cut is None else f"{cut:,}",
                "captions are cut off",
                "no tokenizer was found" if cut is None else f"longer than {report.token_limit or 75} tokens",
                "caution" if cut else "",
            ),
            Figure(f"{len(report.buckets):,}", "buckets", batches),
            Figure(f"{report.steps_per_epoch:,}", "steps an epoch", f"{report.steps:,} in all"),
            Figure(f"{len(report.problems):,}", "problems", "", "caution" if report.problems else "good"),
        ]
    )


def _problems(report: DatasetReport) -> Html:
    if not report.problems and not report.notes and not report.estimate:
        return Html("")
    return joined(
        [
            section("What to know", bullets(report.notes)) if report.notes else "",
            section("Memory and time", bullets(report.estimate)) if report.estimate else "",
            section("Problems", *(part for kind in by_kind(report) for part in _kind(kind))) if report.problems else "",
        ]
    )


def _kind(kind: ProblemKind) -> Iterator[Html]:
    """A table of the first ones below a title."""
    first, more = kind.first(LISTED)
    if kind.title:
        yield element("h3", kind.title)
    yield table(["file", "what"], [[problem.file, _what(problem)] for problem in first], text_columns=(0, 1))
    if more:
        yield paragraph(f"{more}; all are in the JSON report.", quiet=True)


def _what(problem: DatasetProblem) -> object:
    return element("strong", problem.what) if problem.stops else problem.what


def _subsets(report: DatasetReport) -> Html:
    rows = [
        [s.where, s.folder, s.kind, f"{s.images:,}", s.repeats, f"{s.samples:,.0f}", s.found, s.missing, s.empty]
        for s in report.subsets
    ]
    head = ["subset", "folder", "kind", "images", "repeats", "samples an epoch", "captions", "missing", "empty"]
    return section("Subsets", table(head, rows, text_columns=(0, 1, 2)))


def _buckets(report: DatasetReport) -> Html:
    bars = [Bar(f"{b.size[0]} x {b.size[1]}", b.images) for b in report.buckets]
    rows = [
        [f"{b.size[0]} x {b.size[1]}", f"{b.images:,}", f"{b.samples:,.0f}", f"{b.cropped:.1%}"] for b in report.buckets
    ]
    batches = ", ".join(f"{count:,} of {size}" for size, count in report.batch_sizes)
    return section(
        "Buckets",
        bar_plot("Images by training size", bars, remark="Every image trains; a bucket's last batch may be short."),
        table(["size", "images", "samples an epoch", "cropped away"], rows),
        paragraph(f"Batches an epoch: {batches} images."),
    )


def _tags(report: DatasetReport) -> Html:
    if not report.tags:
        return Html("")
    rows = [[tag, f"{count:,}"] for tag, count in report.tags]
    return section(
        "Tags",
        table(["tag", "images"], rows[:25]),
        details(f"{len(rows)} most frequent", table(["tag", "images"], rows)) if len(rows) > 25 else "",
    )


def _duplicates(report: DatasetReport) -> Html:
    parts = []
    for groups, title in ((report.exact, "The same file"), (report.near, "Looks the same")):
        if groups:
            lists = [", ".join(printable(report.shown[i].item.path) for i in group) for group in groups[:100]]
            parts.append(details(f"{title}: {_counted(len(groups), 'group')}", bullets(lists)))
    return section("Duplicates", *parts) if parts else Html("")


def _images(report: DatasetReport) -> Html:
    shown = report.shown[:CARDS]
    odd = [one for one in shown if one.problems]
    groups = [(f"{len(odd):,} with problems", odd)] if odd else []
    for bucket in report.buckets:
        members = [one for one in shown if one.item.target == bucket.size and not one.problems]
        if members:
            groups.append((f"{bucket.size[0]} x {bucket.size[1]}: {_counted(len(members), 'image')}", members))
    first = True
    parts = []
    for title, members in groups:
        cards = element("div", *(_card(one) for one in members), class_="cards")
        summary = element("summary", title)
        parts.append(element("details", summary, cards, class_="bucketed", **({"open": ""} if first else {})))
        first = False
    left = len(report.shown) - len(shown)
    return section(
        "Images",
        paragraph("Framed is what trains; the captions are those of the first epochs, struck out is what is cut off."),
        *parts,
        paragraph(f"{left:,} more images are not shown here.", quiet=True) if left else "",
    )


def _card(one: Shown) -> Html:
    item = one.item
    name = printable(item.path).replace("\\", "/").rpartition("/")[2]
    size = f"{item.original[0]} x {item.original[1]} to {item.target[0]} x {item.target[1]}"
    remarks = [size, f"{one.times:g} times an epoch"]
    if item.weight != 1:
        remarks.append(f"weight {item.weight:g}")
    if one.look.inside is not None:
        remarks.append(f"mask lets {one.look.inside:.0%} train")
    if one.view.mirrored:
        remarks.append("mirrored at first")
    return element(
        "div",
        element("div", _thumbnail(one), _mask(one), class_="left"),
        element(
            "div",
            element("h4", name),
            element("p", ", ".join(remarks), class_="quiet"),
            *(element("p", problem, class_="bad") for problem in one.problems),
            element("ol", *(element("li", _caption(caption)) for caption in _distinct(one.captions))),
        ),
        class_="card odd" if one.problems else "card",
    )


def _distinct(captions: Sequence[TrainedCaption]) -> list[TrainedCaption]:
    return list(dict.fromkeys(captions))


def _caption(caption: TrainedCaption) -> object:
    if not caption.text:
        return element("i", "(empty)")
    if not caption.is_cut or caption.kept is None:
        return caption.text
    return joined([caption.text[: caption.kept], element("s", caption.text[caption.kept :])])


def _thumbnail(one: Shown) -> Html:
    if not one.look.thumbnail:
        return Html("")
    view, target = one.view, one.item.target
    left, top = view.corner[0] / view.resized[0], view.corner[1] / view.resized[1]
    width, height = target[0] / view.resized[0], target[1] / view.resized[1]
    place = f"left:{left:.2%};top:{top:.2%};width:{width:.2%};height:{height:.2%}"
    frame = element("div", element("div", class_="crop", style=place), class_="clip")
    return element("div", _picture(one.look.thumbnail), frame, class_="thumb")


def _mask(one: Shown) -> Html:
    return _picture(one.look.mask, "mask") if one.look.mask else Html("")


def _picture(data: bytes, kind: str | None = None) -> Html:
    source = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
    attributes = f' class="{kind}"' if kind else ""
    return Html(f'<img src="{source}" alt="" loading="lazy" decoding="async"{attributes}>')
