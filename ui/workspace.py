"""The folder that the UI works in: which configs and runs there are, and where the UI keeps its own notes.

Nothing that a page names is ever used as a path: a name must be an element of a listing made here, or pass as a plain
name for a new file.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
import tomllib
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from trainer.data.pictures.files import EXTENSIONS
from trainer.errors import UserError
from trainer.files import ordinary
from trainer.files.atomic import write_text
from trainer.journal.run_dir import RunDir

PROGRAM = Path(__file__).resolve().parents[1]  # where trainer, configs and demo are
MOST_CONFIGS = 500
DAY = 86400.0  # seconds
MEMORY = 3.0  # seconds for which a listing is used again
R = TypeVar("R")
PASSED_OVER = {"node_modules", "tests", "venv", "site-packages"}
PLAIN_NAME = re.compile(r"\w[\w .+-]{0,99}")


# Where bases lie: beside the configs, and in the folders of ComfyUI and A1111 there.
_OTHERS = ("checkpoints", "diffusion_models", "unet", "Stable-diffusion")
BASES = ("models", "checkpoints", "base", *(f"{place}models/{name}" for place in ("", "*/") for name in _OTHERS))


@dataclass(frozen=True)
class Workspace:
    """`root`: configs lie here, and their relative paths start here."""

    root: Path

    @property
    def state(self) -> Path:
        """The UI's own folder."""
        return self.root / ".immiscible"

    def configs(self) -> list[str]:
        """Names of the config files, relative to the root, sorted."""
        return _remembered(("configs", self.root), self._find_configs)

    def _find_configs(self) -> list[str]:
        found = [
            p for depth in ("*.toml", "*/*.toml", "*/*/*.toml") for p in self.root.glob(depth) if self._is_config(p)
        ]
        return sorted(p.relative_to(self.root).as_posix() for p in found[:MOST_CONFIGS])

    def _is_config(self, path: Path) -> bool:
        inside = path.relative_to(self.root)
        if any(part.startswith(".") or part in PASSED_OVER for part in inside.parts):
            return False
        if (path.parent / "metrics.jsonl").exists():
            return False  # the resolved config of a run
        return inside.parts[0] != "configs" and _looks_like_config(path, _stamp(path))

    def config(self, name: str) -> Path:
        """The path of a listed config. Raises UserError for any other name."""
        if name not in self.configs():
            raise UserError(f"{name!r}: there is no such config in {self.root}.")
        return self.root / name

    def new_config(self, name: str) -> Path:
        """The path for a config of this name, which may exist. Raises UserError unless it is a plain name."""
        name = name.strip().removesuffix(".toml")
        if not PLAIN_NAME.fullmatch(name) or name.endswith((".", " ")):
            raise UserError(f"file name: found {name!r}, expected a plain name such as my-style (no slashes).")
        return self.root / f"{name}.toml"

    def bases(self) -> list[str]:
        """Base models near at hand, as a config would name them: files and diffusers folders."""
        near = [p for folder in BASES for p in sorted(self.root.glob(f"{folder}/*"))]
        near += [p for p in (self.root / "base", PROGRAM / "demo" / "base") if p.is_dir()]
        good = [p for p in near if p.suffix == ".safetensors" or (p / "model_index.json").is_file()]
        return [self.relative(p) for p in good][:200]

    def folders(self) -> list[str]:
        """Folders of images near at hand."""
        near = [p for depth in ("*", "*/*") for p in sorted(self.root.glob(depth)) if p.is_dir()]
        good = (
            p for p in near if not any(x.startswith(".") or x in PASSED_OVER for x in p.relative_to(self.root).parts)
        )
        return [self.relative(p) for p in good if has_images(p)][:200]

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def absolute(self, path: str) -> Path:
        """A path as a config in the root means it."""
        return (self.root / Path(path).expanduser()).resolve()

    def runs(self) -> dict[str, RunDir]:
        """All runs by id, the newest first."""
        found = {
            self.relative(mark.parent): _stamp(mark)
            for folder in self.output_dirs()
            for depth in ("*", "*/*", "*/*/*")
            for mark in folder.glob(f"{depth}/metrics.jsonl")
            if not mark.is_relative_to(self.state)  # the trash
        }
        for name, note in self.note("starts", {}).items():
            # One that was just started, or ended before it could write anything, is shown too.
            when = note.get("time", 0) if isinstance(note, dict) else 0
            if name not in found and (when > time.time() - DAY or self.absolute(name).is_dir()):
                found[name] = when
        return {name: RunDir(self.absolute(name)) for name in sorted(found, key=found.__getitem__, reverse=True)}

    def run(self, name: str) -> RunDir:
        """A listed run. Raises UserError for any other name."""
        runs = self.runs()
        if name not in runs:
            raise UserError(f"{name!r}: there is no such run.")
        return runs[name]

    def output_dirs(self) -> list[Path]:
        """Where runs may lie: the usual place, and what the configs of the workspace say."""
        found = {self.root / "output"}
        for name in self.configs():
            path = self.root / name
            if written := _output_dir(path, _stamp(path)):
                found.add((path.parent / Path(written).expanduser()).resolve())
        return sorted(p for p in found if p.is_dir())

    def recent(self) -> list[str]:
        """Configs in the order of their last use."""
        known = self.configs()
        return [name for name in self.note("recent", []) if name in known]

    def used(self, name: str) -> None:
        self.write_note("recent", [name, *(n for n in self.note("recent", []) if n != name)][:20])

    def note(self, name: str, otherwise: Any) -> Any:
        """What the UI noted under a name; `otherwise` where there is nothing readable of that kind."""
        found = read_json(self.state / f"{name}.json")
        return found if isinstance(found, type(otherwise)) else otherwise

    def noted(self, name: str) -> float:
        """When something was noted under a name, 0 for never."""
        return _stamp(self.state / f"{name}.json")

    def write_note(self, name: str, content: Any) -> None:
        write_text(self.state / f"{name}.json", json.dumps(content, indent=1))


_memory: dict[Any, tuple[float, Any]] = {}


def _remembered(key: Any, find: Callable[[], R]) -> R:
    """What was found a moment ago: many pages ask every second, and folders may hold very many files."""
    when, found = _memory.get(key, (0.0, None))
    if time.monotonic() - when > MEMORY:
        found = find()
        _memory[key] = (time.monotonic(), found)
    return found


def forget() -> None:
    """Looks again, after something was written."""
    _memory.clear()


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where it can't be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_config(path: Path) -> str:
    """A config's text. Raises UserError."""
    try:
        return ordinary.text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None


def free_name(name: str, taken: Container[str]) -> str:
    """my-style -> my-style-2, or the next that nobody has."""
    stem, _, digits = name.rpartition("-")
    start, number = (stem, int(digits)) if stem and digits.isdigit() and len(digits) < 6 else (name, 1)
    while (found := f"{start}-{number + 1}") in taken:
        number += 1
    return found


def has_images(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(p.suffix.lower() in EXTENSIONS for p in islice(folder.iterdir(), 200))
    return False


def _stamp(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@lru_cache(maxsize=2048)
def _values(path: Path, stamp: float) -> dict[str, Any]:
    try:
        text = ordinary.text(path)
    except (OSError, UnicodeDecodeError):
        return {}
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        # A config with a slip stays in the list: opening it tells the slip.
        return {"model": {}} if re.search(r"^\[(model|\[datasets\])\]", text, re.MULTILINE) else {}


def _looks_like_config(path: Path, stamp: float) -> bool:
    return bool(_values(path, stamp).keys() & {"model", "training", "datasets", "run", "noise", "lora"})


def _output_dir(path: Path, stamp: float) -> str:
    run = _values(path, stamp).get("run")
    written = run.get("output_dir", "output") if isinstance(run, dict) else "output"
    return written if isinstance(written, str) else ""
