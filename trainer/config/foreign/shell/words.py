"""Splits a line of sh, PowerShell or Windows' cmd into words, with quotes, escapes and variables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Dialect = Literal["sh", "powershell", "cmd"]
Variables = Mapping[str, list[str]]  # a plain one holds one word

CONTINUED = {"sh": "\\", "powershell": "`", "cmd": "^"}
_OPERATORS = {"sh": ";|&<>", "powershell": ";|>&", "cmd": "&|<>"}
_COMMENT = {"sh": "#", "powershell": "#", "cmd": ""}
_VARIABLE = {
    "sh": re.compile(r"\$(?:(\w+)|\{(\w+)(?:\[[@*]\])?(?::?-([^}]*))?\})"),
    "powershell": re.compile(r"[$@](?:\{?(?:env:|script:|global:)?(\w+)\}?)()()", re.IGNORECASE),
    "cmd": re.compile(r"%(\w+)%()()|!(\w+)!"),
}


def dialect_of(text: str) -> Dialect:
    """By its signs: what ends a continued line, how variables are set."""
    if re.search(r"`[ \t]*$", text, re.MULTILINE) or re.search(r"^\s*\$\w+\s*=", text, re.MULTILINE):
        return "powershell"
    if re.search(r"\^[ \t]*$|%\w+%|^\s*(@echo|set\s|rem\s|call\s)", text, re.MULTILINE | re.IGNORECASE):
        return "cmd"
    if text.startswith("#!") or re.search(r"\\[ \t]*$", text, re.MULTILINE):
        return "sh"
    return "cmd" if re.search(r"[A-Za-z]:\\|\.\\", text) else "sh"


def lines(text: str, dialect: Dialect) -> list[tuple[int, str]]:
    """The lines with continued ones joined, each with the number of its first."""
    found: list[tuple[int, str]] = []
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.rstrip()
        if not pending:
            start = number
        if bare.endswith(CONTINUED[dialect]):
            pending += f"{bare[:-1]} "
            continue
        if dialect != "cmd" and _is_open_array(pending + bare):
            pending += f"{bare} "
            continue
        found.append((start, pending + line))
        pending = ""
    return [*found, (start, pending)] if pending.strip() else found


def _is_open_array(line: str) -> bool:
    """NAME=( or $name = @( without its end."""
    return bool(re.match(r"\s*\$?\w+\s*\+?=\s*@?\([^)]*$", line))


@dataclass
class Words:
    """The words of one line up to the end of its first command."""

    found: list[str] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)  # variables that nothing in the file sets


def commands(line: str, dialect: Dialect, variables: Variables) -> Iterator[Words]:
    """The words of each of the commands that stand in a line: cd folder && accelerate launch ..."""
    rest = line
    while rest:
        splitter = _Splitter(rest, dialect, variables)
        yield splitter.run()
        rest = splitter.behind


def split(line: str, dialect: Dialect, variables: Variables) -> Words:
    """Never fails: a quote without an end reaches to the end of the line."""
    return _Splitter(line, dialect, variables).run()


class _Splitter:
    def __init__(self, line: str, dialect: Dialect, variables: Variables) -> None:
        self.line, self.dialect, self.variables = line, dialect, variables
        self.words = Words()
        self.at, self.word, self.is_open = 0, "", False  # is_open: a word has begun, even if it is empty so far

    @property
    def behind(self) -> str:
        """What stands behind the operator that ended the command; "" after the last one."""
        ended = self.line[self.at : self.at + 1]
        return self.line[self.at :].lstrip(_OPERATORS[self.dialect]) if ended in (*_OPERATORS[self.dialect],) else ""

    def run(self) -> Words:
        while self.at < len(self.line):
            letter = self.line[self.at]
            if letter.isspace():
                self._end()
                self.at += 1
            elif letter in _OPERATORS[self.dialect] or (letter == _COMMENT[self.dialect] and not self.is_open):
                if letter in "<>" and self.word.isdigit():  # 2>&1: the number of a stream, not a word
                    self.is_open = False
                break
            elif letter == '"' or (letter == "'" and self.dialect != "cmd"):
                self._quoted(letter)
            elif letter == CONTINUED[self.dialect]:
                self._add(self.line[self.at + 1 : self.at + 2], 2)
            elif not self._variable(quoted=False):
                self._add(letter, 1)
        self._end()
        return self.words

    def _add(self, text: str, length: int) -> None:
        self.word, self.is_open = self.word + text, True
        self.at += length

    def _end(self) -> None:
        if self.is_open:
            self.words.found.append(self.word)
        self.word, self.is_open = "", False

    def _quoted(self, mark: str) -> None:
        self._add("", 1)
        while self.at < len(self.line) and self.line[self.at] != mark:
            escape = CONTINUED[self.dialect] if mark == '"' and self.dialect != "cmd" else ""
            following = self.line[self.at + 1 : self.at + 2]
            if escape and self.line[self.at] == escape and (following in '"\\$`' or self.dialect == "powershell"):
                self._add(following, 2)
            elif mark == "'" or not self._variable(quoted=True):
                self._add(self.line[self.at], 1)
        self.at += 1

    def _variable(self, *, quoted: bool) -> bool:
        """Takes in a variable that stands here."""
        found = _VARIABLE[self.dialect].match(self.line, self.at)
        if found is None or (found[0].startswith("@") and (quoted or self.is_open)):
            return False
        name = next(group for group in (found[1], found[2], *found.groups()[3:]) if group)
        values = self._values(name, found[3])
        if (quoted and len(values) != 1) or (not quoted and (len(values) > 1 or " " in "".join(values))):
            self._several(values if quoted else [word for value in values for word in value.split()], len(found[0]))
        else:
            self._add("".join(values), len(found[0]))
            self.is_open = self.is_open and (quoted or bool(self.word) or values != [""])
        return True

    def _values(self, name: str, otherwise: str | None) -> list[str]:
        key = name if self.dialect == "sh" else name.lower()  # the others do not tell cases apart
        if key in self.variables:
            return list(self.variables[key])
        if otherwise:
            return [otherwise]
        self.words.unset.append(name)
        return [""]

    def _several(self, values: list[str], length: int) -> None:
        """An array, or a text with blanks outside quotes: words of their own."""
        for value in values[:-1]:
            self.word += value
            self.is_open = True
            self._end()
        self._add(values[-1] if values else "", length)
        self.is_open = bool(values)
