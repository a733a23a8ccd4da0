"""Finds the training command in a script: its program, arguments, and those of what launches it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.config.foreign.shell.blocks import uncertain
from trainer.config.foreign.shell.words import Dialect, commands, dialect_of, lines, split
from trainer.errors import UserError

_ASSIGNMENTS = {
    "sh": re.compile(r"^\s*(?:export\s+|declare\s+|local\s+)?(\w+)(\+?)=(.*)$"),
    "powershell": re.compile(r"^\s*\$(?:env:|script:|global:)?(\w+)\s*(\+?)=\s*(.*)$", re.IGNORECASE),
    "cmd": re.compile(r"^\s*@?set\s+\"?(\w+)()=(.*?)\"?\s*$", re.IGNORECASE),
}
TRAINING = re.compile(r"(^|[\\/])((sdxl_|flux_|sd3_|lumina_)?train\w*|fine_tune|\w+_train(_network)?)\.py$")
_SAYING = ("rem", "::", "echo")
MARKER = re.compile(r"(train\w*|fine_tune)\.py\b")


@dataclass(frozen=True)
class Command:
    script: str  # "sdxl_train_network.py", with its folder as written
    arguments: dict[str, Any]  # without the dashes; a flag is True, several words are a list
    launcher: dict[str, Any]  # of accelerate launch


def command(text: str) -> Command | None:
    """The one training command of a text; None where there is none. Raises UserError for more than one, and for
    variables that the text does not set."""
    dialect = dialect_of(text)
    found = list(_commands(text, dialect))
    if not found:
        return None
    if len(found) > 1:
        told = ", ".join(f"line {line}" for line, _, _ in found)
        raise UserError(f"there are {len(found)} training commands ({told}): leave one of them in the file.")
    line, words, unset = found[0]
    if unset:
        raise UserError(
            f"line {line}: {', '.join(dict.fromkeys(unset))} is not set in this file in a way that can be read: "
            "write its value into the command."
        )
    return _parsed(words)


def holds_command(text: str) -> bool:
    """Whether there is at least one."""
    return next(_commands(text, dialect_of(text)), None) is not None


def _commands(text: str, dialect: Dialect) -> Iterator[tuple[int, list[str], list[str]]]:
    """(line, words, unset variables) of every command that starts a training script."""
    variables: dict[str, list[str]] = {}
    joined = lines(text, dialect)
    unknown = uncertain([line for _, line in joined], dialect)
    for number, line in joined:
        if (assigned := _ASSIGNMENTS[dialect].match(line)) and not MARKER.search(assigned[3].partition("=")[0]):
            _assign(variables, assigned, dialect)
            if not (dialect == "sh" and MARKER.search(line)):
                continue
        known = {name: value for name, value in variables.items() if name not in unknown}
        bare = line.lstrip("!% \t") if line.lstrip().startswith("!") else line
        for words in commands(bare, dialect, known):
            if _script_at(words.found) is not None and words.found[0].lower().lstrip("@") not in _SAYING:
                yield number, words.found, words.unset


def _assign(variables: dict[str, list[str]], found: re.Match[str], dialect: Dialect) -> None:
    """NAME=value; arrays as (a b) or @("a", "b"); += adds."""
    name = found[1] if dialect == "sh" else found[1].lower()
    text = found[3].strip()
    array = re.fullmatch(r"@?\((.*)\)", text)
    if dialect == "cmd":
        value = [" ".join(split(f'"{text}"', dialect, variables).found)]
    elif array:
        value = split(array[1].replace(",", " ") if dialect == "powershell" else array[1], dialect, variables).found
    else:
        value = split(text, dialect, variables).found[:1] or [""]
    before = variables.get(name, []) if found[2] else []
    variables[name] = [*before, *value] if array or not before else ["".join([*before, *value])]


def _script_at(words: Sequence[str]) -> int | None:
    return next((i for i, word in enumerate(words) if TRAINING.search(word)), None)


def _parsed(words: Sequence[str]) -> Command:
    at = _script_at(words)
    assert at is not None
    first = next((i for i, word in enumerate(words[:at]) if word.startswith("--")), at)
    return Command(words[at], _arguments(words[at + 1 :]), _arguments(words[first:at]))


def _arguments(words: Iterable[str]) -> dict[str, Any]:
    """--name value, --name=value, --name a b c, --name. Raises UserError for words that belong to none."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            found[name] = [value] if equals else []
        elif name:
            found[name].append(word)
        else:
            raise UserError(f"{word!r} stands before any --argument: what is it?")
    return {key: True if not value else value[0] if len(value) == 1 else value for key, value in found.items()}
