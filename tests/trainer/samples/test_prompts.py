"""Prompts from the config and from kohya's prompt files, with every flag, and every mistake named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.config import reading
from trainer.config.schema.samples import SamplesSettings
from trainer.errors import UserError
from trainer.samples.prompts import Request, requests

USUAL = {"negative": "blurry", "width": 768, "height": 512, "steps": 25, "guidance": 5.0, "seed": 7, "sampler": "euler"}
PLAIN = Request("a cat", 7, "blurry", 768, 512, 25, 5.0, "euler")
FLAGS = "--n bad, ugly --w 643 --h 320 --d 12 --s 20 --l 3.5 --ss k_dpm_2_a"
FLAGGED = Request("a cat, red", 12, "bad, ugly", 643, 320, 20, 3.5, "k_dpm_2_a")


def asked(prompts: object) -> list[Request]:
    return requests(SamplesSettings.model_validate({**USUAL, "prompts": prompts}))


def test_none() -> None:
    assert asked([]) == []
    assert asked("") == []


def test_a_list_takes_the_settings_and_a_seed_each() -> None:
    first, second = asked(["a cat", "a cat"])
    assert first == PLAIN
    assert second.seed == PLAIN.seed + 1


def test_every_flag_of_a_line() -> None:
    assert asked([f"a cat, red {FLAGS}"]) == [FLAGGED]
    upper = FLAGS.replace("--n", "--N").replace("--ss", "--SS")
    assert asked([f"  a cat, red   {upper}"]) == [FLAGGED]


def test_sides_are_rounded_down_to_what_a_model_draws() -> None:
    assert (FLAGGED.fitting({}, 8).width, FLAGGED.fitting({}, 8).height) == (640, 320)
    assert FLAGGED.fitting({}, 1) == FLAGGED
    assert FLAGGED.fitting({}, 1024).width == 1024


def test_only_what_nobody_asked_for_takes_the_model_s_own_values() -> None:
    usual = {"width": 32, "height": 32, "guidance": 1.0}
    none, some = requests(SamplesSettings(prompts=["a", "a --w 64 --l 3"]))
    assert (none.width, none.height, none.guidance) == (512, 512, 7.5)
    own = none.fitting(usual, 4)
    assert (own.width, own.height, own.guidance) == (32, 32, 1.0)
    own = some.fitting(usual, 4)
    assert (own.width, own.height, own.guidance) == (64, 32, 3.0)
    written = requests(SamplesSettings(prompts=["a"], guidance=7.5, width=512, height=512, sampler="ddim"))[0]
    assert written.fitting(usual, 4) == none.fitting({}, 4) == written


def test_a_dash_inside_a_prompt_is_text() -> None:
    assert asked(["a well--known cat"])[0].prompt == "a well--known cat"


def test_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(f"# a comment\n\na cat\n   \na cat, red {FLAGS}\n#a dog\nün chat --d 3\n", encoding="utf-8-sig")
    found = asked(str(file))
    assert found[:2] == [PLAIN, FLAGGED]
    assert (found[2].prompt, found[2].seed) == ("ün chat", 3)


TABLE = {
    "prompt": "a cat, red",
    "negative_prompt": "bad, ugly",
    "width": 643,
    "height": 320,
    "seed": 12,
    "sample_steps": 20,
    "scale": 3.5,
    "sample_sampler": "k_dpm_2_a",
}


def test_a_json_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps([{"prompt": "a cat", "seed": None}, {**TABLE, "enum": 1}]))
    assert asked(str(file)) == [PLAIN, FLAGGED]


def test_a_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.toml"
    file.write_text(
        '[prompt]\nwidth = 643\nheight = 320\nsample_sampler = "k_dpm_2_a"\nscale = 1.0\n[[prompt.subset]]\n'
        'prompt = "a cat, red"\nnegative_prompt = "bad, ugly"\nseed = 12\nsample_steps = 20\nscale = 3.5\n'
    )
    assert asked(str(file)) == [FLAGGED]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a --x 3", "unknown flag --x; known are --n --w"),
        ("a --cn pose.png", "unknown flag --cn"),
        ("a --w wide", "--w: found 'wide', expected a whole number from 8 to"),
        ("a --w 0", "--w: found '0'"),
        ("a --s 1001", "--s: found '1001', expected a whole number from 1 to 1000"),
        ("a --d -1", "--d: found '-1'"),
        ("a --d 1.5", "--d: found '1.5'"),
        ("a --l -2", "--l: found '-2', expected a number of at least 0"),
        ("a --l inf", "--l: found 'inf'"),
        ("a --ss magic", "--ss: found 'magic', expected one of ddim, pndm"),
        ("a --w", "--w: found ''"),
    ],
)
def test_a_wrong_flag_is_named_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        asked(["fine", line])
    assert error.value.problems[0].startswith(f"samples.prompts[1]: {words}")
    (tmp_path / "p.txt").write_text(f"fine\n# no\n{line}\n{line}\n")
    with pytest.raises(UserError) as error:
        asked(str(tmp_path / "p.txt"))
    assert [p.split(": ")[1] for p in error.value.problems] == ["p.txt:3", "p.txt:4"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.json", "{", "p.json: "),
        ("p.json", "[1]", "expected a list of tables"),
        ("p.json", "3", "expected a list of tables"),
        ("p.json", '[{"prompt": 3}]', "prompt: found 3, expected text"),
        ("p.json", '[{"width": true}]', "width: found True"),
        ("p.json", '[{"width": 512.0}]', "width: found 512.0"),
        ("p.json", '[{"hight": 512}]', "unknown key 'hight'; known are prompt"),
        ("p.toml", "prompt = 3", "expected [prompt] with [[prompt.subset]]"),
        ("p.toml", "[prompt", "p.toml: "),
        ("p.csv", "", "expected a list of prompts, or a file .txt, .toml or .json"),
        ("a cat", "", 'One prompt is a list too: ["a cat"]'),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        asked(str(tmp_path / name))
    assert words in str(error.value)
    assert str(error.value).startswith("samples.prompts")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"samples\.prompts: there is no file .*gone\.txt"):
        asked(str(tmp_path / "gone.txt"))


def test_pictures_to_fill_in_lie_beside_the_file_that_names_them(tmp_path: Path) -> None:
    place = tmp_path / "a folder"
    place.mkdir()
    for name in ("photo one.png", "mask.png"):
        (place / name).touch()
    line = "a cat --i photo one.png --m mask.png --w 64"
    (place / "prompts.txt").write_text(line + "\n", encoding="utf-8")
    table = '[prompt]\n[[prompt.subset]]\nprompt = "a cat"\nimage = "photo one.png"\nmask = "mask.png"\n'
    (place / "prompts.toml").write_text(table, encoding="utf-8")
    base = '[model]\nbase = "x"\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "photos"\n[samples]\n'
    written = reading.parse(f'{base}prompts = ["{line}"]', directory=place).samples
    assert reading.parse(f'{base}prompts = ["a cat --w 64"]', directory=place).samples.prompts == ["a cat --w 64"]
    for prompts in (written.prompts, str(place / "prompts.txt"), str(place / "prompts.toml")):
        (found,) = asked(prompts)
        assert (found.image, found.mask) == (str(place / "photo one.png"), str(place / "mask.png"))
