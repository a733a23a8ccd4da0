"""A text that is not TOML: the line, a mark below the place, and what is usually meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import reading
from trainer.errors import UserError


def problems(text: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        reading.parse(text, directory=Path(), source="my.toml")
    return caught.value.problems


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (r'base = "C:\models\x.safetensors"', r"write 'C:\models\x.safetensors'"),
        ('base = "one', 'The closing " is missing'),
        ("base = 'one", "The closing ' is missing"),
        ("base: one", "not a colon"),
        ("base:", "not a colon"),
        ("base = my-model", '"my-model"'),
        ("base =", "The value is missing"),
        ("unet = True", "small letters"),
        ("unet = None", "leave the key out"),
        ("steps = 1,000", "1_000"),
        ("lr = 0,1", "A decimal point"),
        ("unet = true,", "No comma"),
        ("base = “one”", "These quotes"),
        ("[training", "The closing ]"),
    ],
)
def test_the_usual_causes(line: str, cause: str) -> None:
    first, shown, mark, told = problems(f"# first\n{line}\n")
    assert first.startswith("my.toml: not valid TOML: ") and shown == f"  {line}"
    assert mark.strip() == "^" and 2 < len(mark) <= len(shown) + 1
    assert cause in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[run]\nname = "a"\nseed = 1\nname = "b"\n', "name stands in line 2 already"),
        ('[run]\nname = "a"\n[model]\nbase = "b"\n[run]\nseed = 1\n', "[run] stands in line 1 already"),
    ],
)
def test_what_stands_twice_is_told_with_its_first_place(text: str, told: str) -> None:
    assert told in problems(text)[-1]


def test_a_decimal_comma_is_no_thousand() -> None:
    assert "A decimal point, not a comma" in problems("[optimizer]\nlr = 0,001\n")[-1]
    assert "Numbers have no comma" in problems("[training]\nsteps = 1,000\n")[-1]


def test_the_mark_stands_below_the_place() -> None:
    _, shown, mark, _ = problems("[run]\nseed = True\n")
    assert shown[mark.index("^")] == "T"


def test_a_line_that_is_too_long_to_show_is_not_shown() -> None:
    assert problems(f'base = "{"x" * 200}\n')[1:] == ['  The closing " is missing.']


def test_an_escape_in_a_path_is_not_taken_for_a_line_break() -> None:
    text = '[model]\nbase = "C:\\new\\train"\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "C:\\n"\n'
    found = problems(text)
    assert [problem.split(": ")[1] for problem in found] == ["model.base", "datasets[0].subsets[0].image_dir"]
    assert all("single quotes" in problem for problem in found)
