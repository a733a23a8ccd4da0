"""Tags of pictures by a tagger in ONNX form with its list of tags, such as SmilingWolf's WD14 and its successors."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.data.dataset import WHITE
from trainer.data.pictures import decode
from trainer.errors import UserError
from trainer.files import ordinary

MODEL, TAGS = "model.onnx", "selected_tags.csv"  # what the files of a folder or repository are called
RATING, CHARACTER = 9, 4  # in the column `category` of the list; all else is general
COLUMNS = ("name", "category")
FACES = 3  # characters at most: a tag such as 0_0 or ^_^ keeps its underscore, as in sd-scripts


@dataclass(frozen=True)
class Wish:
    """Which of a tagger's tags are taken."""

    general: float = 0.35  # from this probability on
    character: float = 0.85
    ratings: bool = False  # the most probable rating, first
    without: Collection[str] = ()
    underscores: bool = False  # as they stand in the list, instead of blanks


@dataclass(frozen=True)
class Tagger:
    """A network that gives each of its tags a probability."""

    session: Any  # onnxruntime.InferenceSession
    names: tuple[str, ...]
    categories: tuple[int, ...]
    side: int  # pixels

    def tags(self, picture: Path, wish: Wish) -> list[str]:
        """Characters before general tags, the most probable ones first. Raises UserError, BrokenImageError."""
        given = prepared(decode.load(str(picture), WHITE).rgb, self.side)
        try:
            (found,) = self.session.run(
                [self.session.get_outputs()[0].name], {self.session.get_inputs()[0].name: given}
            )
        except Exception as error:  # of onnxruntime's own, each of another class
            raise UserError(f"--tag: the model fails on a picture: {_short(error)}.") from None
        chances = np.asarray(found, np.float64).reshape(-1)
        if len(chances) != len(self.names):
            raise UserError(
                f"--tag: the model gives {len(chances)} numbers, but its list has {len(self.names)} tags; they do not "
                "belong together."
            )
        if not np.isfinite(chances).all():
            raise UserError(f"--tag: the model gives no numbers for {picture.name}.")
        return self._chosen(chances, wish)

    def _chosen(self, chances: np.ndarray, wish: Wish) -> list[str]:
        order = np.argsort(-chances, kind="stable")
        ratings = [i for i in order if self.categories[i] == RATING][: int(wish.ratings)]
        characters = [i for i in order if self.categories[i] == CHARACTER and chances[i] >= wish.character]
        general = [i for i in order if self.categories[i] not in (RATING, CHARACTER) and chances[i] >= wish.general]
        shown = [self._shown(i, wish) for i in (*ratings, *characters, *general)]
        without = {_plain(tag) for tag in wish.without}
        return list(dict.fromkeys(tag for tag in shown if _plain(tag) not in without))

    def _shown(self, index: int, wish: Wish) -> str:
        name = self.names[index]
        return name if wish.underscores or len(name) <= FACES else name.replace("_", " ")


def prepared(picture: Image.Image, side: int) -> np.ndarray:
    """(1, side, side, 3) float32, blue first, 0 to 255: in the middle of a white square, then made to fit."""
    longest = max(picture.size)
    square = Image.new("RGB", (longest, longest), WHITE)
    square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
    if longest != side:
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square, np.float32)[None, :, :, ::-1])


def opened(model: str) -> Tagger:
    """model: an .onnx file beside its list of tags, a folder with both, or the hub's id of one. Raises UserError."""
    if find_spec("onnxruntime") is None:
        raise UserError("--tag: the package onnxruntime is not installed here; pip install onnxruntime.")
    network, listed = _files(model)
    names, categories = _listed(listed)
    session = _session(network)
    return Tagger(session, names, categories, _side(session, network))


def _files(model: str) -> tuple[Path, Path]:
    path = Path(model).expanduser()
    if path.is_file():
        network, listed = path, path.with_name(TAGS)
    elif path.is_dir():
        network, listed = path / MODEL, path / TAGS
    elif model.count("/") == 1 and path.suffix != ".onnx" and not model.startswith((".", "/", "~")):
        return _of_hub(model)
    else:
        raise UserError(f"--tag: there is no file or folder {model!r}.")
    missing = [file.name for file in (network, listed) if not file.is_file()]
    if missing:
        raise UserError(f"--tag: there is no {' and no '.join(missing)} in {network.parent}.")
    return network, listed


def _of_hub(model: str) -> tuple[Path, Path]:
    """From the cache, else downloaded. A snapshot: a single file is asked for five times where there is no network."""
    from huggingface_hub import snapshot_download  # takes a while

    reason = f"it holds no {MODEL} with {TAGS}"
    for cached in (True, False):
        try:
            folder = Path(snapshot_download(model, allow_patterns=[MODEL, TAGS], local_files_only=cached))
        except (OSError, ValueError) as error:
            reason = _short(error)
            continue
        if (folder / MODEL).is_file() and (folder / TAGS).is_file():
            return folder / MODEL, folder / TAGS
    raise UserError(f"--tag: {model!r} is neither here nor to be had from the hub ({reason}).")


def _listed(file: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and categories of the tags, in the order of the model's numbers."""
    try:
        reader = csv.DictReader(ordinary.text(file).splitlines())
        lost = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if lost:
            raise UserError(f"--tag: {file} has no column {lost[0]!r}; expected {', '.join(COLUMNS)}.")
        rows = [(row["name"], int(row["category"])) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--tag: {file} cannot be read ({error}).") from None
    except (TypeError, ValueError):
        raise UserError(f"--tag: {file} has a category that is no whole number.") from None
    if not rows or any(not name for name, _ in rows):
        raise UserError(f"--tag: {file} has {'a tag without a name' if rows else 'no tags'}.")
    return tuple(name for name, _ in rows), tuple(category for _, category in rows)


def _session(network: Path) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # what is wrong is told by the error
    try:
        return onnxruntime.InferenceSession(str(network), providers=onnxruntime.get_available_providers())
    except Exception as error:  # of onnxruntime's own, each of another class
        raise UserError(f"--tag: {network} cannot be read as ONNX ({_short(error)}).") from None


def _side(session: Any, network: Path) -> int:
    """Pixels of the pictures that it takes."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if inputs else []
    whole = len(shape) == 4 and isinstance(shape[1], int) and shape[1] == shape[2] and shape[3] == 3
    if len(inputs) != 1 or not outputs or not whole or inputs[0].type != "tensor(float)":
        told = f"{len(inputs)} inputs, the first {shape}" if inputs else "none"
        raise UserError(
            f"--tag: {network} is no tagger of this kind: expected one input of pictures, (batch, side, side, 3) in "
            f"float32, found {told}."
        )
    return int(shape[1])


def _plain(tag: str) -> str:
    return tag.strip().replace("_", " ").casefold()


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."
