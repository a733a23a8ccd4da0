"""The truth about a dataset: what will train, how often, with which captions, and everything that is odd about it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.data.captions import tags
from trainer.data.captions.pipeline import Moment
from trainer.data.dataset import Dataset, ImageItem, Size
from trainer.data.order.plan import Plan, Presentation
from trainer.data.order.sample import TrainingSample
from trainer.data.pictures.files import printable
from trainer.data.pictures.views import View, choose
from trainer.reports.dataset import duplicates, looks
from trainer.reports.dataset.cutoff import Cut, Cutter
from trainer.reports.dataset.looks import FileLook

EPOCHS = 3  # for which captions are sampled
ENLARGED = 1.25  # an image that is enlarged more than this is too small
CROPPED = 0.35  # an image that loses more than this share of its area to the crop
PICTURES = 10_000  # thumbnails at most
TAGS = 300  # of the most frequent tags, at most
BROKEN = "cannot be used"
Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True, slots=True)
class DatasetProblem:
    file: str
    what: str
    stops: bool = False  # training would not start
    kind: str = ""  # a title that problems of one kind share; "" for one that stands for itself


@dataclass(frozen=True, slots=True)
class TrainedCaption:
    text: str
    tokens: int | None = None  # None where no tokenizer was asked
    kept: int | None = None  # characters that reach the model

    @property
    def is_cut(self) -> bool:
        return self.kept is not None and self.kept < len(self.text)


@dataclass(frozen=True, slots=True)
class Shown:
    """One image as it will train."""

    item: ImageItem
    look: FileLook
    times: float  # an epoch
    captions: tuple[TrainedCaption, ...]  # of the first epochs
    view: View  # of the first presentation
    problems: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()  # of the problems

    @property
    def enlarged(self) -> float:
        return max(self.item.resized[0] / self.item.original[0], self.item.resized[1] / self.item.original[1])

    @property
    def cropped(self) -> float:
        """Share of the image's area that is cut away."""
        return 1 - self.item.target[0] * self.item.target[1] / (self.item.resized[0] * self.item.resized[1])


@dataclass(frozen=True)
class Bucket:
    size: Size
    images: int
    samples: float  # an epoch
    cropped: float  # mean share that is cut away


@dataclass(frozen=True)
class SubsetSummary:
    where: str
    folder: str
    kind: str  # "training" or "regularisation"
    images: int
    repeats: int
    samples: float  # an epoch
    found: int
    missing: int
    empty: int
    masks: int  # images whose loss a mask weighs


@dataclass(frozen=True)
class DatasetReport:
    shown: tuple[Shown, ...]
    subsets: tuple[SubsetSummary, ...]
    buckets: tuple[Bucket, ...]
    batch_sizes: tuple[tuple[int, int], ...]  # (images in a batch, such batches an epoch), largest first
    tags: tuple[tuple[str, int], ...]
    problems: tuple[DatasetProblem, ...]
    exact: tuple[tuple[int, ...], ...]  # duplicates, as indices into `shown`
    near: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]
    samples_per_epoch: int
    batches_per_epoch: int
    steps_per_epoch: int
    steps: int
    estimate: tuple[str, ...] = field(default=())
    needs: Mapping[str, float] = field(default_factory=dict)  # the same for machines
    token_limit: int = 0  # of a caption, without begin and end; 0 = none was asked for

    @property
    def stops(self) -> bool:
        """Whether training would refuse this dataset."""
        return any(problem.stops for problem in self.problems)

    def counts(self) -> dict[str, int]:
        origins = Counter(shown.item.origin for shown in self.shown)
        return {kind: origins[kind] for kind in ("found", "missing", "empty")}

    def cut_off(self) -> int | None:
        """Images of which a caption is cut off; None when no tokenizer was asked."""
        if all(caption.tokens is None for shown in self.shown for caption in shown.captions):
            return None
        return sum(any(caption.is_cut for caption in shown.captions) for shown in self.shown)


def examine(
    dataset: Dataset,
    *,
    seed: int,
    steps: int,
    batches_per_step: int = 1,
    cutter: Cutter | None = None,
    estimate: Sequence[str] = (),
    needs: Mapping[str, float] | None = None,
    refused: Sequence[str] = (),
    token_limit: int = 0,
    on_progress: Progress | None = None,
) -> DatasetReport:
    """Decodes every image once and samples captions.

    steps: of the training; batches_per_step: micro-batches times processes; cutter: counts tokens; estimate: lines
    about memory and time, for the reader; needs: the same for machines; refused: why training would not start whatever
    the images are, as "key: reason"; token_limit: of the cutter, to be named; on_progress(done, total) is called after
    each image.
    """
    plan = Plan(dataset, seed)
    found: list[FileLook] = []
    for look in looks.at(dataset.items, thumbnails=PICTURES):
        found.append(look)
        if on_progress is not None:
            on_progress(len(found), len(dataset.items))
    per_epoch = math.ceil(plan.batches_per_epoch / batches_per_step)
    captions = _captions(dataset, seed, steps, per_epoch, cutter)
    times = plan.times_per_epoch()
    shown = tuple(
        _with_problems(
            Shown(
                item,
                found[i],
                times[i],
                captions[i],
                choose(item, TrainingSample(seed, 0, Presentation(i, 0)).streams("view")),
            ),
            dataset.reads_captions,
        )
        for i, item in enumerate(dataset.items)
    )
    exact = tuple(map(tuple, duplicates.exact(found)))
    near = tuple(map(tuple, duplicates.near(found, [item.original for item in dataset.items])))
    return DatasetReport(
        shown=shown,
        subsets=_subsets(dataset, times),
        buckets=_buckets(shown),
        batch_sizes=tuple(sorted(plan.batch_sizes().items(), reverse=True)),
        tags=tuple(_tags(dataset).most_common(TAGS)),
        problems=(*map(_refusal, refused), *_problems(dataset, shown, exact, near)),
        exact=exact,
        near=near,
        notes=dataset.notes,
        samples_per_epoch=plan.samples_per_epoch,
        batches_per_epoch=plan.batches_per_epoch,
        steps_per_epoch=per_epoch,
        steps=steps,
        estimate=tuple(estimate),
        needs=dict(needs or {}),
        token_limit=token_limit,
    )


def _captions(
    dataset: Dataset, seed: int, steps: int, steps_per_epoch: int, cutter: Cutter | None
) -> list[tuple[TrainedCaption, ...]]:
    texts = [
        tuple(
            TrainingSample(seed, epoch, Presentation(index, 0)).caption(
                item, Moment(epoch, epoch * steps_per_epoch, steps)
            )
            for epoch in range(EPOCHS)
        )
        for index, item in enumerate(dataset.items)
    ]
    distinct = sorted({text for several in texts for text in several})
    cuts: dict[str, Cut] = dict(zip(distinct, cutter(distinct), strict=True)) if cutter else {}
    made = {
        text: TrainedCaption(text, cuts[text].tokens, cuts[text].kept) if cuts else TrainedCaption(text)
        for text in distinct
    }
    return [tuple(made[text] for text in several) for several in texts]


def _with_problems(shown: Shown, reads_captions: bool) -> Shown:
    found: list[tuple[str, str]] = []
    if shown.look.broken:
        found.append((BROKEN, shown.look.broken))
    if reads_captions and shown.item.origin == "empty":
        found.append(("empty captions", "its caption is empty"))
    if reads_captions and shown.item.origin == "missing" and not shown.item.source.options.class_tokens:
        found.append(("without a caption", "it has no caption"))
    if shown.enlarged > ENLARGED:
        found.append(("too small", f"too small: enlarged {shown.enlarged:.1f} times"))
    if shown.cropped > CROPPED:
        found.append(("much is cropped away", f"{shown.cropped:.0%} of it is cropped away"))
    worst = max((caption for caption in shown.captions if caption.is_cut), key=lambda c: c.tokens or 0, default=None)
    if worst is not None and worst.kept is not None:
        said = f"its caption is cut off at {worst.text[worst.kept :].strip()[:60]!r} ({worst.tokens} tokens)"
        found.append(("captions that are cut off", said))
    texts, kinds = tuple(text for _, text in found), tuple(kind for kind, _ in found)
    return Shown(shown.item, shown.look, shown.times, shown.captions, shown.view, texts, kinds)


def _refusal(line: str) -> DatasetProblem:
    key, _, reason = line.partition(": ")
    return DatasetProblem(key, reason, stops=True)


def _problems(
    dataset: Dataset, shown: Sequence[Shown], exact: Sequence[Sequence[int]], near: Sequence[Sequence[int]]
) -> list[DatasetProblem]:
    found = [DatasetProblem(printable(fault.path), fault.reason, stops=True, kind=BROKEN) for fault in dataset.faults]
    found += [
        DatasetProblem(printable(skipped.path), f"left out: {skipped.reason}", kind="left out")
        for skipped in dataset.skipped
    ]
    for one in shown:
        file = printable(one.item.path)
        found += [
            DatasetProblem(file, what, stops=kind == BROKEN, kind=kind)
            for what, kind in zip(one.problems, one.kinds, strict=True)
        ]
    for groups, word, kind in (
        (exact, "the same file as", "copies of another image"),
        (near, "looks the same as", "much like another image"),
    ):
        for group in groups:
            first = printable(shown[group[0]].item.path)
            found += [
                DatasetProblem(printable(shown[index].item.path), f"{word} {first}", kind=kind)
                for index in group[1:]
                # An image that stands in several datasets was put there on purpose.
                if os.path.realpath(shown[index].item.path) != os.path.realpath(shown[group[0]].item.path)
            ]
    return sorted(found, key=lambda problem: not problem.stops)


def _buckets(shown: Sequence[Shown]) -> tuple[Bucket, ...]:
    sizes: dict[Size, list[Shown]] = {}
    for one in shown:
        sizes.setdefault(one.item.target, []).append(one)
    return tuple(
        Bucket(size, len(members), sum(m.times for m in members), sum(m.cropped for m in members) / len(members))
        for size, members in sorted(sizes.items())
    )


def _subsets(dataset: Dataset, times: Sequence[float]) -> tuple[SubsetSummary, ...]:
    by_source: dict[int, list[int]] = {id(source): [] for source in dataset.sources}
    for index, item in enumerate(dataset.items):
        by_source[id(item.source)].append(index)
    found = []
    for source in dataset.sources:
        members = by_source[id(source)]
        origins = Counter(dataset.items[i].origin for i in members)
        found.append(
            SubsetSummary(
                where=source.where,
                folder=printable(source.folder),
                kind="regularisation" if source.is_reg else "training",
                images=len(members),
                repeats=source.options.num_repeats,
                samples=sum(times[i] for i in members),
                found=origins["found"],
                missing=origins["missing"],
                empty=origins["empty"],
                masks=sum(bool(dataset.items[i].mask) or source.alpha_mask for i in members),
            )
        )
    return tuple(found)


def _tags(dataset: Dataset) -> Counter[str]:
    """How many images have each tag, in any of their captions as written."""
    counts: Counter[str] = Counter()
    for item in dataset.items:
        separator = item.source.options.caption_separator
        counts.update({tag for caption in item.captions for tag in tags.tags_of(caption, separator)})
    return counts


def to_json(report: DatasetReport) -> dict[str, Any]:
    """The report for machines."""
    shown = report.shown
    return {
        "images": sum(not one.look.broken for one in shown),
        "captions": {**report.counts(), "cut_off": report.cut_off()},
        "buckets": [
            {
                "width": bucket.size[0],
                "height": bucket.size[1],
                "images": bucket.images,
                "samples": bucket.samples,
                "cropped": round(bucket.cropped, 4),
            }
            for bucket in report.buckets
        ],
        "batches": [{"images": size, "batches": count} for size, count in report.batch_sizes],
        "samples_per_epoch": report.samples_per_epoch,
        "steps_per_epoch": report.steps_per_epoch,
        "steps": report.steps,
        "subsets": [vars(subset) for subset in report.subsets],
        "tags": [{"tag": tag, "images": count} for tag, count in report.tags],
        "duplicates": {
            "exact": [[printable(shown[i].item.path) for i in group] for group in report.exact],
            "near": [[printable(shown[i].item.path) for i in group] for group in report.near],
        },
        "problems": [{"file": p.file, "what": p.what, "stops": p.stops, "kind": p.kind} for p in report.problems],
        "notes": list(report.notes),
        "estimate": list(report.estimate),
        "needs": dict(report.needs),
        "would_train": not report.stops,
    }
