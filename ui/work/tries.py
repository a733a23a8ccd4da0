"""Grids of prompts and guidance by results and strengths, drawn by the trainer and kept beside the run."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.errors import UserError
from trainer.files.atomic import write_text
from trainer.journal.run_dir import RunDir
from ui.work import processes
from ui.work.results import SEPARATOR, results
from ui.workspace import Workspace

MOST_PROMPTS = 8
MOST_STRENGTHS = 8
MOST_RESULTS = 6
MOST_GUIDANCES = 6
MOST_PICTURES = 200
FOLDER = "tries"  # in the folder of a run
ID = re.compile(r"[0-9]{20}-[0-9a-f]{4}")


@dataclass(frozen=True)
class Wish:
    """What is to be drawn, checked. A column for each result at each strength, a row for each prompt and guidance."""

    results: dict[str, tuple[RunDir, Path]]
    prompts: list[str]
    strengths: list[float]
    seed: int
    steps: int
    guidances: list[float]

    @property
    def rows(self) -> list[tuple[str, float]]:
        return [(prompt, guidance) for prompt in self.prompts for guidance in self.guidances]

    def lines(self) -> list[str]:
        """The rows as the trainer reads prompts; flags that a person typed win over ours."""
        found = []
        for index, prompt in enumerate(self.prompts):
            text, *flags = prompt.split(" --")
            for guidance in self.guidances:
                ours = [f"d {self.seed + index}", f"l {guidance:g}"]
                found.append(" --".join([text, *ours, *flags]))
        return found

    def arguments(self, name: str, output: Path) -> list[str]:
        """Of the trainer's command for one result; no text of a person can become an option."""
        run, result = self.results[name]
        # Of a run that began with random weights, the result is what draws.
        whole = ["--set", f"model.base={result}", "--set", "model.network={}", "--set", "model.init=pretrained"]
        chosen = whole if result.is_dir() else [f"--lora={result}"]
        return [
            "sample",
            str(run.config),
            *chosen,
            f"--strength={','.join(f'{s:g}' for s in self.strengths)}",
            "--set",
            f"samples.steps={self.steps}",
            *(f"--prompt={line}" for line in self.lines()),
            f"--output={output}",
            f"--parts={output.with_suffix('')}",
        ]


class Grid(BaseModel):
    """A kept try. `pictures`: by row and column, relative to its folder; "" where none was drawn."""

    model_config = ConfigDict(extra="ignore")
    rows: list[str]
    columns: list[str]
    about: str
    pictures: list[list[str]]


def wish(
    workspace: Workspace, chosen: object, prompts: str, strengths: str, seed: str, steps: str, guidance: str
) -> Wish:
    """Raises UserError with everything that is wrong."""
    problems = []
    known = results(workspace)
    names = list(dict.fromkeys(chosen)) if isinstance(chosen, list) else [chosen]
    picked = {name: known[name] for name in names if isinstance(name, str) and name in known}
    if not 1 <= len(picked) <= MOST_RESULTS or len(picked) < len(names):
        problems.append(f"Results: choose 1 to {MOST_RESULTS} of the list.")
    texts = [line.strip() for line in (prompts or "").splitlines() if line.strip()]
    if not 1 <= len(texts) <= MOST_PROMPTS or any(len(text) > 2000 for text in texts):
        problems.append(f"Prompts: write 1 to {MOST_PROMPTS}, one on each line.")
    good = _numbers("Strengths", strengths, MOST_STRENGTHS, -10, 10, problems)
    guidances = _numbers("Guidance", guidance, MOST_GUIDANCES, 0, 100, problems)
    numbers = {
        name: _numbers(name, text, 1, low, high, problems)
        for name, text, low, high in (("Seed", seed, 0, 2**63 - 10), ("Steps", steps, 1, 1000))
    }
    count = len(picked) * len(texts) * len(good) * len(guidances)
    if count > MOST_PICTURES:
        problems.append(f"these are {count} pictures; at most {MOST_PICTURES} are drawn at once.")
    if problems:
        raise UserError(problems)
    return Wish(picked, texts, good, int(numbers["Seed"][0]), int(numbers["Steps"][0]), guidances)


def _numbers(what: str, text: str, most: int, low: float, high: float, problems: list[str]) -> list[float]:
    """Adds to `problems` where they are not what is wanted."""
    found = [_number(part) for part in re.split(r"[,\s]+", str(text or "").strip()) if part]
    if 1 <= len(found) <= most and all(value is not None and low <= value <= high for value in found):
        return [value for value in found if value is not None]
    count = "a number" if most == 1 else f"1 to {most} numbers"
    problems.append(f"{what}: expected {count} from {low:g} to {high:g}, found {text!r}.")
    return []


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value else None


def draw(workspace: Workspace, wanted: Wish) -> Iterator[str]:
    """Draws and keeps a grid in the folder of the first result's run; yields lines about how far it is.

    Raises UserError where a result could not be drawn; what was drawn before is kept.
    """
    first = next(iter(wanted.results.values()))[0]
    folder = first.path / FOLDER / f"{time.time_ns():020d}-{secrets.token_hex(2)}"
    folder.mkdir(parents=True)
    for number, name in enumerate(wanted.results):
        output = folder / f"{number}.png"
        text = ""
        for text in processes.stream(processes.command(*wanted.arguments(name, output)), workspace.root):
            yield f"{name}: {text.rstrip().rpartition(chr(10))[2]}"
        if not output.is_file():
            lines = [line for line in text.splitlines() if line.strip()][-8:]
            raise UserError(lines or "nothing was drawn.")
        write_text(folder / "grid.json", _grid(wanted, folder, number + 1).model_dump_json())


def _grid(wanted: Wish, folder: Path, done: int) -> Grid:
    several = len(wanted.guidances) > 1
    names = list(wanted.results)[:done]
    pictures = []
    for row in range(len(wanted.rows)):
        places = [f"{n}/{row}-{column}.png" for n in range(done) for column in range(len(wanted.strengths))]
        pictures.append([place if (folder / place).is_file() else "" for place in places])
    return Grid(
        rows=[f"{prompt} (guidance {g:g})" if several else prompt for prompt, g in wanted.rows],
        columns=[f"{name.rpartition(SEPARATOR)[2]} at {s:g}" for name in names for s in wanted.strengths],
        about=f"{', '.join(names)}; seed {wanted.seed}, {wanted.steps} steps, "
        f"guidance {', '.join(f'{g:g}' for g in wanted.guidances)}",
        pictures=pictures,
    )


def kept(workspace: Workspace) -> list[Path]:
    """Folders of all tries, the newest first."""
    found = [p.parent for run in workspace.runs().values() for p in (run.path / FOLDER).glob("*/grid.json")]
    return sorted((p for p in found if ID.fullmatch(p.name)), key=lambda p: p.name, reverse=True)


def read(folder: Path) -> Grid | None:
    """None where it is damaged."""
    try:
        return Grid.model_validate_json((folder / "grid.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None
