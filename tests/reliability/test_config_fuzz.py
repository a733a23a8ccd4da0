"""Two thousand broken config files: each is accepted, or answered with lines that a person can act on."""

from __future__ import annotations

import copy
import datetime
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from tests.reliability import small
from trainer.config import keys as config_keys
from trainer.config import reading
from trainer.config.checks import notes
from trainer.config.presets.choosing import all_presets, text_of
from trainer.errors import UserError

ROOT = Path(__file__).parents[2]
IN_STRUCTURE, IN_TEXT, IN_OVERRIDES = 1200, 500, 300

NASTY: list[Callable[[random.Random], Any]] = [
    lambda luck: luck.choice([float("nan"), float("inf"), float("-inf"), -0.0, 1e308, 5e-324]),
    lambda luck: luck.choice([0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**64), 10**400]),
    lambda luck: luck.choice([True, False]),
    lambda luck: luck.choice(["", "\x00", "x" * 5000, "../..", "~nobody/x", "é\u202e😀", "nan", "a\nb", "C:\\CON"]),
    lambda luck: luck.choice([[], {}, [[]], [{}], {"": ""}, [1, "two", 3.0], [[1, 2], [3]], {"k": {"k": {"k": 1}}}]),
    lambda luck: datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    lambda luck: luck.choice([datetime.date(2020, 1, 1), datetime.time(1, 2, 3)]),
    lambda luck: [luck.choice([64, -64, 64.5, "64", True]) for _ in range(luck.randrange(5))],
    lambda luck: {luck.choice(["k", "min", "name", "a.b", "", " "]): luck.choice([1, "x", [], {}])},
]  # fmt: skip


KEYS = [
    (path, field.get_default(call_default_factory=True))
    for path, field in config_keys.keys()  # noqa: SIM118 (a function)
    if "[]" not in path and path.count(".") == 1
]


def bases() -> list[dict[str, Any]]:
    texts = [small.CONFIG, *(file.read_text(encoding="utf-8") for file in sorted((ROOT / "configs").glob("*.toml")))]
    texts += [text_of(preset) for preset in all_presets()]
    return [tomlkit.parse(text).unwrap() for text in texts]


def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    found = [path] if path else []
    for key, child in children:
        found += places(child, (*path, key))
    return found


def mutated(values: dict[str, Any], luck: random.Random) -> dict[str, Any]:
    """A few values replaced, keys removed, renamed, doubled or moved, tables made lists and the reverse."""
    values = copy.deepcopy(values)
    for _ in range(luck.choice([1, 1, 2, 3])):
        place = luck.choice(places(values) or [("run",)])
        parent: Any = values
        for part in place[:-1]:
            parent = parent[part]
        nasty = luck.choice(NASTY)(luck)
        match luck.randrange(9):
            case 0 | 1:
                parent[place[-1]] = nasty
            case 2:
                del parent[place[-1]]
            case 3 if isinstance(parent, dict):
                parent[luck.choice(["", "lr", "rank ", "Rank", "n\x00", "ö", "x" * 300])] = parent.pop(place[-1])
            case 4:
                parent[place[-1]] = [parent[place[-1]], parent[place[-1]]]
            case 5:
                parent[place[-1]] = {"value": parent[place[-1]]}
            case known:
                place, default = luck.choice(KEYS)
                section, _, key = place.partition(".")
                if isinstance(values.setdefault(section, {}), dict):
                    values[section][key] = nasty if known == 6 else luck.choice([default, 1, 2.0, True, "x"])
    return values


def scrambled(content: bytes, luck: random.Random) -> bytes:
    at = luck.randrange(len(content))
    lines = content.split(b"\n")
    match luck.randrange(9):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + luck.randbytes(luck.randrange(1, 9)) + content[at:]
        case 2:
            return content[:at] + bytes([content[at] ^ (1 << luck.randrange(8))]) + content[at + 1 :]
        case 3:
            return b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")
        case 4:
            luck.shuffle(lines)
            return b"\n".join(lines)
        case 5:
            line = luck.randrange(len(lines))
            return b"\n".join([*lines[:line], lines[line], *lines[line:]])
        case 6:
            return content + luck.choice(
                [b"\x00", b"a = [" + b"[" * 300, b"a" + b".a" * 300 + b" = 1", b'a = """', b"="]
            )
        case 7:
            return content.decode().encode(luck.choice(["utf-16", "utf-32", "utf-8-sig", "cp037"]))
        case _:
            return content.replace(b"=", luck.choice([b"==", b":", b"= =", b"=\n"]), luck.randrange(1, 4))


def override(luck: random.Random) -> str:
    if luck.random() < 0.3:  # a sound one
        path, value = luck.choice([(p, v) for p, v in KEYS if isinstance(v, (bool, int, float, str))])
        return f"{path}={json.dumps(value)}"
    path = luck.choice([path for path, _ in config_keys.keys()]).replace("[]", f"[{luck.randrange(-1, 3)}]")  # noqa: SIM118
    values = ["1", "-1", "nan", "inf", "[]", "{}", "''", "x", "", "1e400", "[[1]]", "2020-01-01", "{a={b=1}}", "=", "'"]
    value = luck.choice([*values, "9" * 400, "9" * 5000, "\x00", "{", "0x", "true", "[1,'a']", "[" * 2000])
    return luck.choice([f"{path}={value}", f"{path}", f"={value}", f"{path}.x={value}", f"..={value}", f"[0]={value}"])


def survives(file: Path, overrides: list[str]) -> bool:
    """Whether it was accepted; anything but a config or a UserError is raised."""
    try:
        config = reading.read(file, overrides)
    except UserError as error:
        assert error.problems
        assert all(line.strip() and len(line) < 2000 for line in error.problems)
        return False
    assert all(isinstance(line, str) for line in notes(config))
    assert reading.parse(reading.to_toml(config), directory=Path("/elsewhere")) == config
    return True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.toml"


def test_mutated_structures(file: Path) -> None:
    known, accepted = bases(), 0
    for seed in range(IN_STRUCTURE):
        luck = random.Random(f"structure {seed}")
        try:
            text = tomlkit.dumps(mutated(luck.choice(known), luck))
        except (ValueError, TypeError, KeyError):
            text = small.CONFIG  # TOML has no way to write it down
        file.write_text(text, encoding="utf-8", errors="replace")
        accepted += survives(file, [])
    assert IN_STRUCTURE / 20 < accepted < IN_STRUCTURE * 19 / 20


def test_scrambled_texts(file: Path) -> None:
    accepted = 0
    for seed in range(IN_TEXT):
        luck = random.Random(f"text {seed}")
        file.write_bytes(scrambled(small.CONFIG.encode(), luck))
        accepted += survives(file, [])
    assert 0 < accepted < IN_TEXT


def test_strange_overrides(file: Path) -> None:
    file.write_text(small.CONFIG)
    accepted = 0
    for seed in range(IN_OVERRIDES):
        luck = random.Random(f"override {seed}")
        accepted += survives(file, [override(luck) for _ in range(luck.randrange(1, 3))])
    assert 0 < accepted < IN_OVERRIDES


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[" * 100_000, id="deep tables"),
        pytest.param(b"a = " + b"[" * 100_000, id="deep lists"),
        pytest.param(b"a" + b".a" * 4_000 + b" = 1", id="deep keys"),
        pytest.param(b"a = " + b"9" * 100_000, id="a long number"),
        pytest.param(b"# " + b"x" * 10_000_000, id="ten megabytes of comment"),
        pytest.param(b"x = '" + b"x" * 10_000_000 + b"'", id="ten megabytes of text"),
        pytest.param(b"[run]\nname = '\xed\xa0\x80'", id="surrogates"),
        pytest.param(bytes(range(256)), id="all bytes"),
        pytest.param(b"[run]\nname = 'a'\nname = 'b'", id="a key twice"),
        pytest.param(b"[run]\n[run]", id="a table twice"),
    ],
)
def test_fixed_monsters(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert not survives(file, [])


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        reading.read(tmp_path)
