"""What a scan of the dataset tables finds: the images that train, those that do not, and what a person should know.

Made for 100,000 images: an item holds its own path, sizes and captions, and shares the rest with its subset.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.config import DatasetOptions, SubsetOptions
from trainer.data.buckets import Size, crop_ltrb
from trainer.data.decode import WHITE, Colour
from trainer.data.written import Origin


@dataclass(frozen=True, slots=True)
class Source:
    """One subset: where its images lie and the options that hold for them."""

    where: str  # its place in the config, e.g. datasets[0].subsets[1]
    dataset: int  # index of its dataset
    folder: Path
    options: SubsetOptions
    is_reg: bool = False  # regularisation images: as many a dataset and epoch as it has others
    alpha_mask: bool = False  # transparency is the loss mask of images without a mask file


@dataclass(frozen=True, slots=True)
class Item:
    """One image that trains. Sizes are (width, height) in pixels, after the EXIF rotation."""

    path: str
    captions: tuple[str, ...]  # as written; several are alternatives; ("",) when there is none
    original: Size
    resized: Size
    corner: tuple[int, int]  # (left, top) of the crop in the resized image
    target: Size
    source: Source
    weight: float = 1.0  # in the loss
    origin: Origin = "found"  # of the caption
    mask: str = ""  # the file of its loss mask

    @property
    def repeats(self) -> int:
        """Times an epoch; of regularisation images: their share of the ones that an epoch takes."""
        return self.source.options.num_repeats

    @property
    def crop_ltrb(self) -> tuple[float, float, float, float]:
        return crop_ltrb(self.original, self.target)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that does not train, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rendering:
    """How all images of a dataset are drawn."""

    background: Colour = WHITE  # behind transparent pixels
    cell: int = 8  # pixels per latent cell, along one side


@dataclass(frozen=True)
class Dataset:
    items: tuple[Item, ...]
    groups: tuple[DatasetOptions, ...]  # the effective options of each [[datasets]] table
    sources: tuple[Source, ...]
    skipped: tuple[Skipped, ...] = ()
    faults: tuple[Skipped, ...] = ()  # files for which training would not start
    notes: tuple[str, ...] = ()  # lines for the console
    rendering: Rendering = Rendering()

    def batch_size(self, item: Item) -> int:
        return self.groups[item.source.dataset].batch_size
