"""Options of other trainers' commands, which are settings of the config here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from tomlkit import item

from trainer.config.errors import place_of
from trainer.config.foreign.keys import Key
from trainer.config.foreign.sd_scripts.table import KEYS, LORA
from trainer.config.foreign.translate import alike
from trainer.config.foreign.values import BadValueError, Context, Values
from trainer.config.keys import keys
from trainer.errors import UserError

_FILES = ("config", "config_file")


def refuse_settings(words: Sequence[str], own: Collection[str]) -> None:
    """Raises UserError where a command's words hold settings as options, each with what to write instead.

    own: the options that the command has.
    """
    problems = [told for name, value in _options(words) if name not in own and (told := _told(name, value))]
    if problems:
        raise UserError(problems)


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(--name, value or "")"""
    skip = False
    for word, after in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--") and len(word) > 2 and not skip:
            name, equals, value = word.partition("=")
            yield name, value if equals else "" if after.startswith("--") else after
        skip = word == "--set"


def _told(option: str, text: str) -> str:
    """What to write instead; "" for an option that is nobody's."""
    name = option[2:].replace("-", "_")
    if name in _FILES:
        return f"{option}: the config stands alone: train {text or 'my.toml'}"
    if ours := place_of(name):
        setting = f"{ours}={text or '...'}"
        return f"{option}: a setting of the config here, as an option --set {_quoted(setting)}"
    key = KEYS.find(f"{name}.*" if f"{name}.*" in KEYS else name)
    if key is None:
        return ""
    sets = _sets(key, name, text)
    if sets:
        return f"{option}: a setting of the config here, as an option {' '.join(f'--set {_quoted(s)}' for s in sets)}"
    elsewhere = f"no setting here ({key.note})" if key.note else "several settings of the config here"
    where = f"stands in the config here, as {key.ours[0]}" if key.ours else elsewhere
    return f"{option}: {where}. To take over a whole command: python launch.py import FILE, a file that holds it."


def _sets(key: Key, name: str, text: str) -> list[str]:
    """Ours as key=value, where the option says them without others."""
    known = {path for path, _ in keys()} & {*key.ours}
    values = Values(KEYS.defaults, {name: text or True}, Context(script=LORA[0]))
    try:
        found = key.outcome(values, name).sets
    except (BadValueError, UserError):
        return []
    return [f"{ours}={_value(text, value)}" for ours, value in found.items() if ours in known]


def _value(text: str, value: Any) -> str:
    """As --set takes it: a text without quotes."""
    return text if alike(text, value) else value if isinstance(value, str) else item(value).as_string()


def _quoted(setting: str) -> str:
    """For every shell."""
    return f'"{setting}"' if set(setting) & set(" []{}'*") else setting
