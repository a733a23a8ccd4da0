"""The import of one file from its text to our TOML, checked before anything is written."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from trainer.config import reading
from trainer.config.foreign.recognise import recognise
from trainer.config.foreign.translate import Entry, Translation, translate
from trainer.config.importing import report, settings, toml
from trainer.errors import UserError

ALL = "all"


@dataclass(frozen=True)
class Imported:
    translation: Translation
    text: str  # our TOML
    left: tuple[str, ...]  # our keys that are to be filled in by hand

    @property
    def told(self) -> list[str]:
        return report.lines(self.translation)


def imported(
    path: Path,
    output: Path,
    *,
    without: Collection[str] = (),
    script: str = "",
    folder: Path | None = None,
    lenient: bool = False,
) -> Imported:
    """The file as one of ours that would lie at `output`; writes nothing.

    without: keys that may be left out although they have no counterpart; "all" = any. lenient: the same, to show it.
    folder: where its relative paths start, if not beside it.
    Raises UserError for a file that is not understood, for keys that would be missed, and for a result that is not
    valid here.
    """
    translation = translate(recognise(path, script=script, folder=folder))
    if not lenient:
        _refuse_missing(translation, without)
    found = settings.wanted(translation, output)
    text = toml.document(found, translation, path.name)
    try:
        reading.parse(text, directory=output.parent, source=str(path), name=output.stem)
    except UserError as error:
        raise UserError(_with_names(error.problems, found, path)) from None
    return Imported(translation, text, tuple(settings.left_to_fill_in(found, translation)))


def _refuse_missing(translation: Translation, without: Collection[str]) -> None:
    """Raises UserError for what would change the result and was not allowed to be left out."""
    known = {entry.name for entry in translation.entries}
    problems = [f"--without {name}: the file has no such key." for name in without if name not in {*known, ALL}]
    if ALL not in without:
        lost = [e for e in report.of_kind(translation, "missing") if not e.outcome.harmless and e.name not in without]
        problems += [_lost(entry, translation) for entry in lost]
        if lost:
            names = " ".join(f"--without {entry.name}" for entry in lost[:3])
            more = "" if len(lost) <= 3 else f", or --without {ALL}"
            problems.append(f"To go on without {'them' if len(lost) > 1 else 'it'}: {names}{more}.")
    if problems:
        raise UserError(problems)


def _lost(entry: Entry, translation: Translation) -> str:
    hidden = entry.name in translation.source.secrets
    return f"{entry.name} = {'...' if hidden else report.shown(entry.value)}: {entry.outcome.why}."


def _with_names(problems: list[str], found: dict[str, settings.Setting], path: Path) -> list[str]:
    """Problems of the result, each with the file's key behind the one of ours."""
    told = []
    for problem in problems:
        text = problem.removeprefix(f"{path}: ")
        key = text.partition(":")[0].strip()
        names = ", ".join(found[key].names) if key in found else ""
        told.append(f"{path}: {f'{names} -> ' if names else ''}{text}")
    return told
