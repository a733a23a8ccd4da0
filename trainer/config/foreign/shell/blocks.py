"""Finds the variables of a script whose values depend on what happens when it runs: on conditions, loops, sums."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from trainer.config.foreign.shell.words import Dialect

_START = r"(?:^\s*|[;&|]\s*|\b(?:then|do|else)\s+)"  # where sh expects a command
_SH_OPENS = re.compile(_START + r"(?:if|for|while|until|case|select)\b")
_SH_CLOSES = re.compile(r"(?:^\s*|;\s*)(?:fi|done|esac)\b")
_SH_SETS = re.compile(_START + r"(?:(?:export|local|declare|readonly)\s+)?(\w+)\+?=")
_SH_PERHAPS = re.compile(r"(?:&&|\|\|)\s*(?:export\s+)?(\w+)\+?=")
_SH_WORKED_OUT = re.compile(r"^\s*(?:export\s+)?(\w+)\+?=[^'#]*(?:\$\(|`)|^\s*read\s+(?:-\w+\s+)*(\w+)")
_PS_OPENS = re.compile(r"\b(?:if|elseif|else|foreach|for|while|switch|do|try|catch)\b[^{]*\{", re.IGNORECASE)
_PS_SETS = re.compile(r"\$(?:env:|script:|global:)?(\w+)\s*\+?=", re.IGNORECASE)
_PS_WORKED_OUT = re.compile(
    r"^\s*\$(?:env:|script:|global:)?(\w+)\s*\+?=\s*(?:\[|\$\(|if\b|&|[^@#'\"\s(][^#]*\s[-+*/%]\s|(?:\"[^\"]*\"|'[^']*')\s*[-+*%])"
    r"|\$(\w+)\.(?:Add|AddRange|Insert|Remove|RemoveAt|Clear)\(",
    re.IGNORECASE,
)
_CMD_PERHAPS = re.compile(r"^[\s@)]*(?:if|for|else)\b", re.IGNORECASE)
_CMD_SETS = re.compile(r"\bset\s+(?:/[ap]\s+)?\"?(\w+)\s*=", re.IGNORECASE)
_CMD_WORKED_OUT = re.compile(r"\bset\s+/[ap]\s+\"?(\w+)\s*[-+*/]?=", re.IGNORECASE)


def uncertain(lines: Sequence[str], dialect: Dialect) -> frozenset[str]:
    """Names of variables that are set under a condition, in a loop or by working something out, anywhere. What they
    hold cannot be read from the text. Names are in lower case where the shell does not tell cases apart."""
    bare = [line for line in lines if not line.lstrip().startswith("#" if dialect != "cmd" else "::")]
    names = {name for line, inside in _nested(bare, dialect) for name in _FINDERS[dialect](line, inside)}
    return frozenset(names if dialect == "sh" else {name.lower() for name in names})


def _nested(lines: Sequence[str], dialect: Dialect) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it lies in a block or opens one."""
    depth = 0
    for line in lines:
        opened, closed = _turns(line, dialect)
        yield line, depth > 0 or opened > 0
        depth = max(0, depth + opened - closed)


def _turns(line: str, dialect: Dialect) -> tuple[int, int]:
    """How many blocks a line opens and closes."""
    if dialect == "sh":
        return len(_SH_OPENS.findall(line)), len(_SH_CLOSES.findall(line))
    if dialect == "powershell":
        return len(_PS_OPENS.findall(line)), line.count("}") - line.count("${") - line.count("@{")
    opens = bool(_CMD_PERHAPS.match(line)) and line.rstrip().endswith("(")
    return int(opens), int(line.lstrip().startswith(")"))


def _in_sh(line: str, inside: bool) -> list[str]:
    found = _SH_SETS.findall(line) if inside else _SH_PERHAPS.findall(line)
    return [*found, *_either(_SH_WORKED_OUT, line)]


def _in_powershell(line: str, inside: bool) -> list[str]:
    return [*(_PS_SETS.findall(line) if inside else ()), *_either(_PS_WORKED_OUT, line)]


def _in_cmd(line: str, inside: bool) -> list[str]:
    perhaps = inside or _CMD_PERHAPS.match(line)
    return [*(_CMD_SETS.findall(line) if perhaps else ()), *_CMD_WORKED_OUT.findall(line)]


def _either(pattern: re.Pattern[str], line: str) -> list[str]:
    return [name for found in pattern.finditer(line) for name in found.groups() if name]


_FINDERS: dict[Dialect, Callable[[str, bool], list[str]]] = {
    "sh": _in_sh,
    "powershell": _in_powershell,
    "cmd": _in_cmd,
}
