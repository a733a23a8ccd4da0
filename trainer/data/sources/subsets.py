"""Opens the subsets of a dataset table: where its images lie, what is written about them, their masks."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from trainer.config import paths
from trainer.config.schema.data import (
    OF_BASE,
    DatasetOptions,
    DatasetSettings,
    DataSettings,
    GeneralSettings,
    SubsetOptions,
    SubsetSettings,
    effective,
)
from trainer.data.dataset import SubsetSource
from trainer.data.pictures import views
from trainer.data.pictures.files import listed
from trainer.data.sources import masks as mask_folder
from trainer.data.sources.folder import FolderSource
from trainer.data.sources.metadata import MetadataSource
from trainer.errors import UserError

NO_EFFECT = {"cache_info": "sizes are read from the images' headers"}


@dataclass(frozen=True)
class Opened:
    """One subset, ready to be walked."""

    reader: FolderSource | MetadataSource
    masks: dict[str, str]  # image -> mask file
    notes: list[str]

    @property
    def source(self) -> SubsetSource:
        return self.reader.source


@dataclass
class Subsets:
    """What came of all tables."""

    opened: list[Opened] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_table(
        self,
        index: int,
        table: DatasetSettings,
        general: GeneralSettings,
        data: DataSettings,
        config_dir: Path,
    ) -> None:
        """Opens the subsets of datasets[index], and notes what is wrong with them."""
        where = f"datasets[{index}]"
        if not table.subsets:
            self.problems.append(f"{where}.subsets: there are none. Add [[datasets.subsets]] with an image_dir.")
        multiplier = effective(DatasetOptions, table, general).network_multiplier
        if multiplier != 1:
            self.problems.append(
                f"{where}.network_multiplier: found {multiplier:g}; releases of sd-scripts scale the LoRA by it in "
                "training, which is not done here. Remove it, or set it to 1."
            )
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
                self.opened.append(_open(index, place, options, subset, data, config_dir))
            except UserError as error:
                self.problems += error.problems


def _check_new(subset: SubsetSettings, place: str, first_use: dict[tuple[str, str], str], config_dir: Path) -> None:
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


def _open(
    index: int, place: str, options: SubsetOptions, subset: SubsetSettings, data: DataSettings, config_dir: Path
) -> Opened:
    metadata = _absolute(subset.metadata_file, config_dir)
    folder = _absolute(subset.image_dir, config_dir) or (metadata or config_dir).parent
    source = SubsetSource(
        place,
        index,
        folder,
        options,
        is_reg=subset.is_reg,
        alpha_mask=subset.alpha_mask,
        of_base=options.asks_base or (subset.is_reg and data.prior_prediction),
        has_masks=bool(subset.conditioning_data_dir),
    )
    reader: FolderSource | MetadataSource
    if metadata is None:
        reader = FolderSource(source, subset.image_dir)
    else:
        paths.need(f"{place}.metadata_file", subset.metadata_file, "file", config_dir)
        reader = MetadataSource(source, metadata, subset.image_dir)
    notes = [*reader.notes(), *_option_notes(reader, options)]
    masks: dict[str, str] = {}
    mask_dir = _absolute(subset.conditioning_data_dir, config_dir)
    if mask_dir is not None:
        masks, more = mask_folder.masks(
            mask_dir, reader.images, f"{place}.conditioning_data_dir", subset.conditioning_data_dir
        )
        notes += more
    return Opened(reader, masks, notes)


def _absolute(path: str, config_dir: Path) -> Path | None:
    return (config_dir / Path(path).expanduser()).absolute() if path else None


def _option_notes(reader: FolderSource | MetadataSource, options: SubsetOptions) -> list[str]:
    where = reader.source.where
    notes = [f"{where}: {name} has no effect: {why}" for name, why in NO_EFFECT.items() if getattr(options, name)]
    if idle := sorted(options.custom_attributes.keys() - {OF_BASE}):
        notes.append(f"{where}: custom_attributes has no effect: nothing reads {', '.join(idle)}")
    if options.face_crop_aug_range is not None:
        faceless = [os.path.basename(path) for path in reader.images if views.face_of(path) is None]  # noqa: PTH119
        if faceless:
            notes.append(
                f"{where}: face_crop_aug_range: {len(faceless)} of {len(reader.images)} names do not end in "
                f"_x_y_width_height of a face; those are cropped as usual: {listed(faceless)}"
            )
    return notes
