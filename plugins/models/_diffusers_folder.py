"""Where a diffusers folder keeps its parts, and how to read and write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plugins.models._lazily import Lazily
from trainer.errors import UserError
from trainer.files.tensor_file import Stored, read_json

if TYPE_CHECKING:
    from torch import Tensor

DIFFUSERS_STEM = "diffusion_pytorch_model"  # of the UNet and the VAE
TRANSFORMERS_STEM = "model"  # of text encoders


@dataclass(frozen=True)
class DiffusersFolder:
    """A folder with model_index.json, or one that lacks it and gives clear errors."""

    path: Path

    def index(self) -> dict[str, Any]:
        return read_json(self.path / "model_index.json")

    def config(self, part: str) -> dict[str, Any]:
        """The config of a part such as "unet". Raises UserError when it is missing."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return read_json(self.path / part / name)

    def has(self, part: str) -> bool:
        return (self.path / part).is_dir()

    def where(self, part: str) -> str:
        """The part, for messages."""
        return str(self.path / part)

    def tokenizer(self, part: str) -> Path:
        """Where the tokenizer is, if there is one: "tokenizer" or "tokenizer_2"."""
        return self.path / part

    def weights(self, part: str) -> Mapping[str, Tensor]:
        """All weights of a part, in the precision of the files, each read when it is asked for. Raises UserError when
        there are none."""
        stored = [Stored(file) for file in self.weight_files(part)]
        return Lazily({name: partial(file.__getitem__, name) for file in stored for name in file})

    def weight_files(self, part: str) -> list[Path]:
        """Where the weights of a part are. Raises UserError when there are none."""
        stem = TRANSFORMERS_STEM if part.startswith("text_encoder") else DIFFUSERS_STEM
        pickled = "pytorch_model.bin" if stem == TRANSFORMERS_STEM else f"{stem}.bin"
        names = [f"{stem}.safetensors", f"{stem}.safetensors.index.json", f"{stem}.fp16.safetensors", pickled]
        found = next((self.path / part / n for n in names if (self.path / part / n).exists()), None)
        if found is None:
            raise UserError(f"{self.path / part}: no weights (looked for {', '.join(names)})")
        return self._shards(found) if found.suffix == ".json" else [found]

    @staticmethod
    def _shards(index: Path) -> list[Path]:
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        if not shards or any(not isinstance(s, str) or Path(s).name != s for s in shards):
            raise UserError(f"{index}: weight_map does not name files of this folder")
        return [index.parent / shard for shard in shards]


def find(base: str) -> DiffusersFolder | None:
    """The diffusers folder that `base` names, or None."""
    path = Path(base)
    return DiffusersFolder(path) if (path / "model_index.json").is_file() else None


def write_part(folder: Path, stem: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Writes config.json and <stem>.safetensors into a new folder."""
    from safetensors.torch import save_file  # brings torch; what tells a base from its header needs none

    folder.mkdir(parents=True)
    write_json(folder / "config.json", config)
    save_file(dict(weights), folder / f"{stem}.safetensors", metadata={"format": "pt"})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def config_of(module: Any) -> dict[str, Any]:
    """The config.json of a live diffusers module, without the folder that it came from."""
    config = json.loads(module.to_json_string())
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "_use_default_values")}
