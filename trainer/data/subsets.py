"""Opens the subsets of a dataset table: where its images lie, what is written about them, their masks."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from trainer import config
from trainer.config import SubsetOptions, effective
from trainer.data import mask_folder, views
from trainer.data.dataset import Source
from trainer.data.folder_source import FolderSource
from trainer.data.images import listed
from trainer.data.metadata_source import MetadataSource
from trainer.errors import UserError

NO_EFFECT = {"cache_info": "sizes are read from the images' headers", "custom_attributes": "nothing reads it"}


@dataclass(frozen=True)
class Opened:
    """One subset, ready to be walked."""

    reader: FolderSource | MetadataSource
    masks: dict[str, str]  # image -> mask file
    notes: list[str]

    @property
    def source(self) -> Source:
        return self.reader.source


@dataclass
class Subsets:
    """What came of all tables."""

    opened: list[Opened] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_table(
        self, index: int, table: config.Dataset, general: config.General, data: config.Data, config_dir: Path
    ) -> None:
        """Opens the subsets of datasets[index], and notes what is wrong with them."""
        where = f"datasets[{index}]"
        if not table.subsets:
            self.problems.append(f"{where}.subsets: there are none. Add [[datasets.subsets]] with an image_dir.")
        if 1 not in (table.network_multiplier, general.network_multiplier):
            self.notes.append(f"{where}: network_multiplier has no effect")
        first_use: dict[tuple[str, str], str] = {}
        for number, subset in enumerate(table.subsets):
            place = f"{where}.subsets[{number}]"
            options = effective(SubsetOptions, subset, table, general)
            if data.cache_latents:
                self.problems += [
                    f"{place}.{name}: excludes cached latents; set data.cache_latents = false."
                    for name in views.changes(options)
                ]
            try:
                _check_new(subset, place, first_use, config_dir)
                self.opened.append(_open(index, place, options, subset, config_dir))
            except UserError as error:
                self.problems += error.problems


def _check_new(subset: config.Subset, place: str, first_use: dict[tuple[str, str], str], config_dir: Path) -> None:
    if not subset.image_dir and not subset.metadata_file:
        raise UserError(f"{place}.image_dir: not set. Name a folder of images.")
    key = (os.path.realpath(config_dir / subset.image_dir), subset.metadata_file)
    earlier = first_use.setdefault(key, place)
    if earlier != place:
        name = "metadata_file" if subset.metadata_file else "image_dir"
        raise UserError(
            f"{place}.{name}: {getattr(subset, name)!r} is used by {earlier} already. "
            "Remove one; to see its images more often, raise num_repeats."
        )


def _open(index: int, place: str, options: SubsetOptions, subset: config.Subset, config_dir: Path) -> Opened:
    metadata = _absolute(subset.metadata_file, config_dir)
    folder = _absolute(subset.image_dir, config_dir) or (metadata or config_dir).parent
    source = Source(place, index, folder, options, is_reg=subset.is_reg, alpha_mask=subset.alpha_mask)
    reader: FolderSource | MetadataSource
    if metadata is None:
        reader = FolderSource(source, subset.image_dir)
    else:
        reader = MetadataSource(source, metadata, subset.image_dir)
    notes = [*reader.notes(), *_option_notes(reader, options)]
    masks: dict[str, str] = {}
    mask_dir = _absolute(subset.conditioning_data_dir, config_dir)
    if mask_dir is not None:
        masks, more = mask_folder.masks(mask_dir, reader.images, f"{place}.conditioning_data_dir")
        notes += more
    return Opened(reader, masks, notes)


def _absolute(path: str, config_dir: Path) -> Path | None:
    return (config_dir / Path(path).expanduser()).absolute() if path else None


def _option_notes(reader: FolderSource | MetadataSource, options: SubsetOptions) -> list[str]:
    where = reader.source.where
    notes = [f"{where}: {name} has no effect: {why}" for name, why in NO_EFFECT.items() if getattr(options, name)]
    if options.face_crop_aug_range is not None:
        faceless = [os.path.basename(path) for path in reader.images if views.face_of(path) is None]  # noqa: PTH119
        if faceless:
            notes.append(
                f"{where}: face_crop_aug_range: {len(faceless)} of {len(reader.images)} names do not end in "
                f"_x_y_width_height of a face; those are cropped as usual: {listed(faceless)}"
            )
    return notes
