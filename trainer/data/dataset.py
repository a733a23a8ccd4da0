"""What a scan of the dataset tables finds: the images that train, those that do not, and what a person should know.

Made for 100,000 images: an item holds its own path, sizes and captions, and shares the rest with its subset.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.config.schema.data import DatasetOptions, SubsetOptions
from trainer.data.captions.written import Origin

Size = tuple[int, int]  # (width, height) in pixels
Colour = tuple[int, int, int]  # red, green, blue
WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class SubsetSource:
    """One subset: where its images lie and the options that hold for them."""

    where: str  # its place in the config, e.g. datasets[0].subsets[1]
    dataset: int  # index of its dataset
    folder: Path
    options: SubsetOptions
    is_reg: bool = False  # regularisation images: as many a dataset and epoch as it has others
    alpha_mask: bool = False  # transparency is the loss mask of images without a mask file
    of_base: bool = False  # the target is the base's own answer
    has_masks: bool = False  # a folder of masks is named


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image that trains. Sizes are (width, height) in pixels, after the EXIF rotation."""

    path: str
    captions: tuple[str, ...]  # as written; several are alternatives; ("",) when there is none
    original: Size
    resized: Size
    corner: tuple[int, int]  # (left, top) of the crop in the resized image
    target: Size
    source: SubsetSource
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
    size_multiple: int = 8  # pixels: what the sides of a training size divide by


@dataclass(frozen=True)
class Dataset:
    items: tuple[ImageItem, ...]
    groups: tuple[DatasetOptions, ...]  # the effective options of each [[datasets]] table
    sources: tuple[SubsetSource, ...]
    skipped: tuple[Skipped, ...] = ()
    faults: tuple[Skipped, ...] = ()  # files for which training would not start
    notes: tuple[str, ...] = ()  # lines for the console
    rendering: Rendering = Rendering()
    reads_captions: bool = True  # something of the model depends on them
    hiding: int = 0  # areas drawn of each image for a model that fills pictures in, where latents are cached; 0 = none

    def batch_size(self, item: ImageItem) -> int:
        return self.groups[item.source.dataset].batch_size


NO_IMAGES = Dataset(items=(), groups=(), sources=())


def crop_ltrb(image: Size, target: Size) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) that SDXL is told about an image, by kohya's rule.

    The image is laid inside the target at its own aspect ratio and centred; the numbers are that rectangle's. They do
    not describe the pixels that were cut away (`Fit.corner` does), but models trained by kohya's scripts expect them.
    """
    aspect = image[0] / image[1]
    wider_target = target[0] / target[1] > aspect
    width = target[1] * aspect if wider_target else float(target[0])
    height = float(target[1]) if wider_target else target[0] / aspect
    left, top = (target[0] - width) // 2, (target[1] - height) // 2
    return left, top, left + width, top + height
