"""Which settings an imported file needs: those that the file says, and those that the other program does unasked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.config.foreign import files
from trainer.config.foreign.translate import Setting, Translation, alike
from trainer.config.keys import defaults, paths
from trainer.config.paths import looks_like_path

LEFT = "?"  # a setting with no key of the file behind it: something that a person has to fill in
DATASETS = ("datasets", "validation.datasets")  # lists of tables
# Images, or the prompts that take their place: one of them, at least.
LEARNT_FROM = (
    "datasets", "data.train_data_dir", "data.class_dir", "data.config", "slider.prompts_file", "slider.prompts",
    "slider.targets",
)  # fmt: skip
ALWAYS = (*DATASETS, "model.base", "general.resolution")  # told even where it is our default
_NAMES_OF_HUB = ("model.base", "model.vae", "model.tokenizer")


def wanted(translation: Translation, output: Path) -> dict[str, Setting]:
    """The settings to write, by dotted key, paths as they must stand in `output`."""
    found = {k: s for k, s in translation.settings.items() if _is_needed(k, s, translation)}
    places = _Places(translation.source.context.folder, output.parent)
    return _completed({key: replace(s, value=places.moved(key, s.value)) for key, s in found.items()})


def _is_needed(key: str, setting: Setting, translation: Translation) -> bool:
    """Whatever differs from our default, and what the file says in the same words although it need not."""
    if not alike(setting.value, default(key)) or (key in ALWAYS and not setting.is_default):
        return True
    if setting.is_default:
        return False
    theirs, said = translation.source.table.defaults, translation.source.keys
    return any(alike(said.get(n), setting.value) and not alike(said.get(n), theirs.get(n)) for n in setting.names)


def default(key: str) -> Any:
    """Ours; None for an entry of a table of names."""
    return defaults().get(key)


@dataclass(frozen=True)
class _Places:
    """Where the other program's file lies, and where ours will."""

    theirs: Path
    ours: Path

    def moved(self, key: str, value: Any) -> Any:
        """A path as it must stand in our file: as it is, if it means the same there, else a whole one."""
        if key in DATASETS:
            return [self._table(table) for table in value]
        if key not in paths() or not isinstance(value, str) or not value or not files.is_relative(value):
            return value
        found = files.found(self.theirs, value)
        if found is None and key in _NAMES_OF_HUB and not looks_like_path(value):
            return value
        means = (found or self.theirs / value).resolve()
        return value if (self.ours / value).resolve() == means else str(means)

    def _table(self, table: Mapping[str, Any]) -> dict[str, Any]:
        subsets = [
            {k: self.moved(f"datasets[].subsets[].{k}", v) for k, v in subset.items()}
            for subset in table.get("subsets", [])
        ]
        return {**table, "subsets": subsets} if subsets else dict(table)


def _completed(found: dict[str, Setting]) -> dict[str, Setting]:
    """With places to fill in for what no config can do without."""
    if "model.base" not in found:
        found["model.base"] = Setting("model.safetensors", (LEFT,), True)
    if not any(key in found for key in LEARNT_FROM):
        found["datasets"] = Setting([{"subsets": [{"image_dir": "images"}]}], (LEFT,), True)
    return found


def left_to_fill_in(found: Mapping[str, Setting], translation: Translation) -> list[str]:
    """Keys that the file says nothing of, or not enough."""
    unsure = translation.source.unsure
    return [key for key, setting in found.items() if setting.names == (LEFT,) or key in unsure]
