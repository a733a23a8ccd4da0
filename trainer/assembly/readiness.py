"""What keeps a run from starting, told before anything that takes seconds: from the config alone, and from its folders.

Every command that works with a config asks here, and so does the setup page; what only the base's weights, the pictures
and the device can tell comes later, from whoever reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.assembly import headers
from trainer.config import paths
from trainer.config.schema.base import changed
from trainer.config.schema.data import DatasetOptions, DatasetSettings, DataSettings, effective
from trainer.config.schema.whole import BaseConfig
from trainer.data.pictures import sizing
from trainer.errors import UserError
from trainer.optim import sources
from trainer.samples import prompts

QUICK = 3000  # images whose headers and captions are read in a second


def of_file(config: BaseConfig) -> list[str]:
    """What the config alone tells, beyond the rules of its reading; instant.

    Sizes are held against each other here. What they must be multiples of is the base's, and told with it.
    """
    tables = {"datasets": config.datasets, "validation.datasets": config.validation.datasets}
    sizes = [
        line
        for place, found in tables.items()
        for index, table in enumerate(found)
        for line in sizing.problems(f"{place}[{index}]", effective(DatasetOptions, table, config.general), 1)
    ]
    return [*sizes, *sources.problems(config.optimizer.name, config.optimizer.args)]


def of_material(config: BaseConfig) -> list[str]:
    """What is wrong with the base, the other files and the folders of images; opens no picture. About a second."""
    problems = _of_paths(config)
    base = missing_base(config.model.base)
    outline, lines = (None, base) if base else headers.of_base(config)
    problems += [*lines, *headers.of_other_files(config), *_of_prompts(config)]
    if outline is not None:
        problems += headers.of_blocks(config, outline)
    if not config.slider.asked:
        problems += _of_images(config, (outline.size_multiple if outline else 0) or 1)
    return list(dict.fromkeys(problems))  # a path may be asked for twice


def of_kind(config: BaseConfig) -> list[str]:
    """A line for who works on images, if the run learns from prompts alone."""
    return ["slider: this command works on images, and a run by prompts has no images."] if config.slider.asked else []


def of_base(config: BaseConfig) -> list[str]:
    """What is wrong with the base alone, as its header tells."""
    base = missing_base(config.model.base)
    return base or headers.of_base(config)[1]


def of_pictures(config: BaseConfig) -> list[str]:
    """What is wrong with single images and captions, where they are few enough to be read in a second."""
    from trainer.data.sources.scan import opened, scan

    tables = (config.datasets, config.general, config.data)
    subsets, _ = opened(*tables, config_dir=Path.cwd(), size_multiple=1)
    if subsets.problems or sum(len(subset.reader.images) for subset in subsets.opened) > QUICK:
        return []
    try:
        outline, _ = headers.of_base(config)
        reads = outline is None or outline.reads_captions
        scan(*tables, config_dir=Path.cwd(), size_multiple=1, reads_captions=reads)
    except UserError as error:
        return error.problems
    return []


def of_results(config: BaseConfig) -> list[str]:
    """A line for each folder that the run would write to and cannot."""
    folders = {"run.output_dir": (config.run.output_dir, Path(config.run.output_dir) / config.run.name)}
    if config.data.cache_to_disk:
        folders["data.cache_dir"] = (config.data.cache_dir, Path(config.data.cache_dir))
    return [
        f"{key}: nothing can be put into {paths.named(written)}: {reason}. Name another folder."
        for key, (written, folder) in folders.items()
        if (reason := paths.in_the_way(folder))
    ]


def missing_base(base: str) -> list[str]:
    """A line if the base is a path that leads nowhere."""
    return [line] if base and (line := paths.problem("model.base", base, "base")) else []


def refuse(config: BaseConfig, *asked: Callable[[BaseConfig], list[str]]) -> None:
    """Raises UserError with what the config alone tells, else with what the others that are `asked` tell."""
    if problems := of_file(config):
        raise UserError(problems)
    if problems := [line for ask in asked for line in ask(config)]:
        raise UserError(problems)


def _of_paths(config: BaseConfig) -> list[str]:
    """Prompts are told with what they hold, and folders that are made with the results."""
    return [
        line
        for key, path, wanted in paths.paths_of(config)
        if wanted != "made" and key not in ("model.base", prompts.WHERE) and (line := paths.problem(key, path, wanted))
    ]


def _of_prompts(config: BaseConfig) -> list[str]:
    try:
        prompts.requests(config.samples)
    except UserError as error:
        return error.problems
    return []


def _of_images(config: BaseConfig, multiple: int) -> list[str]:
    """multiple: pixels that the sides of the base's pictures must divide by."""
    found = _of_tables(config, config.datasets, config.data, multiple)
    if not config.validation.datasets:
        return found
    elsewhere = changed(config.data, train_data_dir="", reg_data_dir="", class_dir="")
    return [*found, *(f"validation.{p}" for p in _of_tables(config, config.validation.datasets, elsewhere, multiple))]


def _of_tables(config: BaseConfig, tables: Sequence[DatasetSettings], data: DataSettings, multiple: int) -> list[str]:
    from trainer.data.sources.scan import opened  # with the library that reads pictures

    subsets, _ = opened(tables, config.general, data, config_dir=Path.cwd(), size_multiple=multiple)
    return subsets.problems
