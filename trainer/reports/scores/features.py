"""What turns pictures into features: a model that is named, or a plain summary of colours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.files.tensor_file import read_json
from trainer.reports.scores.distances import Features

PLAIN = "simple"
CELLS = 8  # along a side, of the plain summary
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of its pictures
RANGES: dict[str, Callable[[Tensor], Tensor]] = {  # of what a TorchScript file takes, from [0, 1]
    "unit": lambda x: x,
    "signed": lambda x: x * 2 - 1,
    "bytes": lambda x: (x * 255).round().to(torch.uint8),
    "imagenet": lambda x: _normalised(x, *IMAGENET),
}


@dataclass(frozen=True)
class Extractor:
    told: str  # what the features are, for the reader
    side: int  # pixels of the square pictures that it takes
    of: Callable[[Tensor], Tensor]  # (B, 3, side, side) in [0, 1] -> (B, D)

    @torch.no_grad()
    def features(self, batches: Iterable[Tensor], device: torch.device) -> Features:
        """(N, D). Raises UserError where the model gives no row for each picture."""
        rows = []
        for pixels in batches:
            found = self.of(pixels.to(device))
            if not isinstance(found, Tensor) or len(found) != len(pixels) or not found.is_floating_point():
                raise UserError(f"--features: {self.told} does not give a row of numbers for each picture.")
            rows.append(found.flatten(1).double().cpu().numpy())
        whole: Features = np.concatenate(rows)
        if not np.isfinite(whole).all():
            raise UserError(f"--features: {self.told} gives NaN or infinity.")
        return whole


def named(name: str, *, side: int, range: str, device: torch.device) -> Extractor:
    """name: "simple", a TorchScript file, or a folder with a CLIP model of transformers; side and range: of what a
    TorchScript file takes. Raises UserError."""
    path = Path(name).expanduser()
    if name == PLAIN:
        return _plain()
    if path.is_dir():
        return _clip(path, device)
    if path.is_file():
        return _script(path, side, range, device)
    raise UserError(
        f"--features: there is no file or folder {name!r}. Expected 'simple', a TorchScript file (torch.jit.save) or a "
        "folder with a CLIP model of transformers (config.json and weights)."
    )


def _plain() -> Extractor:
    told = f"simple: means of {CELLS} x {CELLS} places in three colours; no network, blind to all that is finer"
    return Extractor(told, 8 * CELLS, lambda x: torch.nn.functional.adaptive_avg_pool2d(x, CELLS).flatten(1))


def _script(path: Path, side: int, range: str, device: torch.device) -> Extractor:
    try:
        module = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--features: {path.name} is no TorchScript file ({str(error).splitlines()[0]}).") from None
    return Extractor(f"{path.name} (TorchScript, {side} x {side}, {range})", side, lambda x: module(RANGES[range](x)))


def _clip(folder: Path, device: torch.device) -> Extractor:
    """The image half, projected: CLIP's embeddings of pictures."""
    from transformers import CLIPVisionModelWithProjection

    if not str(read_json(folder / "config.json").get("model_type", "")).startswith("clip"):
        raise UserError(f"--features: {folder} holds no CLIP model (model_type in its config.json).")
    try:
        model: Any = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"--features: {folder} cannot be loaded ({str(error).splitlines()[0]}).") from None
    model.to(device).eval()
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
    told = f"CLIP's embeddings of pictures ({folder.name})"
    return Extractor(
        told,
        int(model.config.image_size),
        lambda x: model(pixel_values=_normalised(x, mean, deviation)).image_embeds,
    )


def _normalised(x: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    return (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(deviation)[:, None, None]
