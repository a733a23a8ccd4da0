"""What is wrong with a text that is not TOML: the line, a mark below it, and the usual cause."""

from __future__ import annotations

import re

_PLACE = re.compile(r"\(at line (\d+), column (\d+)\)")
_OPEN = re.compile(r"=\s*(?:'[^']*|\"[^\"]*)$")
_LONGEST = 100  # of the line that is shown
_KEY = r"^\s*[\w.\"'-]+\s*"


def explained(text: str, error: ValueError | RecursionError, source: str) -> list[str]:
    """The lines to tell. error: what tomllib said."""
    told = [f"{source}: not valid TOML: {error}."]
    lines = text.split("\n")
    place = _place(lines, str(error))
    if place is None:
        return told
    number, column = place
    line = lines[number - 1].rstrip("\r") if number <= len(lines) else ""
    if line.strip() and len(line) <= _LONGEST:
        told += [f"  {line}".replace("\t", " "), f"  {' ' * (min(column, len(line) + 1) - 1)}^"]
    if cause := _cause(line, str(error), lines[: number - 1]):
        told.append(f"  {cause}")
    return told


def _place(lines: list[str], message: str) -> tuple[int, int] | None:
    """(line, column) from 1; of what is open at the end of the text, the end of the line where it begins."""
    if found := _PLACE.search(message):
        return int(found[1]), int(found[2])
    return next(((n + 1, len(line) + 1) for n, line in enumerate(lines) if _OPEN.search(line)), None)


def _cause(line: str, message: str, before: list[str]) -> str:
    if "twice" in message or "overwrite" in message:
        return _earlier(line, before)
    found = ((re.search(pattern, line), cause) for pattern, cause in _CAUSES)
    return next((cause.format(*match.groups()) for match, cause in found if match), "")


# The first that fits counts.
_CAUSES = (
    (r"=\s*\[?\s*[\u201c\u201d\u2018\u2019]", "These quotes are for print: write \" or '."),
    (r"\"([^\"]*\\[^\"]*)\"", "In double quotes a backslash begins a sign of its own: write '{0}', or /."),
    (rf"{_KEY}=\s*(True|False)\b", "TOML writes true and false in small letters."),
    (rf"{_KEY}=\s*(None|null|nil|~)\s*(#.*)?$", "TOML has no such value: leave the key out."),
    (rf"{_KEY}=\s*[1-9]\d{{0,2}}(,\d{{3}})+\s*(#.*)?$", "Numbers have no comma: 1000, or 1_000."),
    (rf"{_KEY}=\s*\d+,\d+\s*(#.*)?$", "A decimal point, not a comma; two numbers are a list: [512, 768]."),
    (rf"{_KEY}=.*,\s*(#.*)?$", "No comma stands behind a value."),
    (rf"{_KEY}:(\s|$)", "A key and its value have = between them, not a colon."),
    (rf"{_KEY}=\s*(#.*)?$", "The value is missing; an empty text is \"\"."),
    (rf"{_KEY}=\s*([\"'])(?:(?!\1).)*$", "The closing {0} is missing."),
    (rf"{_KEY}=\s*([^\s\"'\[{{#][^#\"]*?)\s*(#.*)?$", "A text stands in quotes: \"{0}\"."),
    (r"^\s*\[{1,2}[^\]]*$", "The closing ] is missing."),
)  # fmt: skip


def _earlier(line: str, before: list[str]) -> str:
    """Where it stands already."""
    name = line.strip() if line.lstrip().startswith("[") else line.partition("=")[0].strip()
    for number in range(len(before), 0, -1):
        other = before[number - 1].strip()
        if name in (other, other.partition("=")[0].strip()):
            return f"{name} stands in line {number} already: keep one of them."
        if other.startswith("[") and not name.startswith("["):
            break
    return ""
