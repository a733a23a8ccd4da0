"""Captions in bulk from the command line: seen before, done as a whole, taken back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.trainer.data.test_tagging import listed, network
from trainer.__main__ import main
from trainer.data.captions import bulk

TEXTS = {"a": "red, cat, red", "b": "dog, blue sky\n", "c": None, "d": "cat, old\nred, cat"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in TEXTS.items():
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
        if text is not None:
            (tmp_path / f"{name}.txt").write_bytes(text.encode())
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["trainer", "captions", *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def now(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_bytes().decode() for path in folder.glob("*.txt")}


BEFORE = {name: text for name, text in TEXTS.items() if text is not None}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--deduplicate",), {"a": "red, cat\n"}),
        (("--remove", "red"), {"a": "cat\n", "d": "cat, old\ncat\n"}),
        (("--replace", "cat=kitten"), {"a": "red, kitten\n", "d": "kitten, old\nred, kitten\n"}),
        (("--sort",), {"a": "cat, red\n", "b": "blue sky, dog\n", "d": "cat, old\ncat, red\n"}),
        (("--sort", "--first", "x", "--first", "dog", "--having", "dog"), {"b": "x, dog, blue sky\n"}),
        (("--add", "new", "--having", "old"), {"d": "cat, old, new\nred, cat\n"}),
        (
            ("--add", "new"),
            {"a": "red, cat, new\n", "b": "dog, blue sky, new\n", "c": "new\n", "d": "cat, old, new\nred, cat, new\n"},
        ),
        (("--remove", "nothing"), {}),
    ],
)
def test_changes_are_shown_then_made_then_taken_back(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    expected: dict[str, str],
) -> None:
    assert run(monkeypatch, str(folder), *options) == 0
    assert now(folder) == BEFORE
    assert f"{len(expected)} of 4 captions would change" in capsys.readouterr().out
    assert run(monkeypatch, str(folder), *options, "--apply") == 0
    assert now(folder) == BEFORE | expected
    if expected:
        assert run(monkeypatch, str(folder), "--undo") == 0
    assert now(folder) == BEFORE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to change"),
        (("--replace", "cat"), "expected OLD=NEW"),
        (("--add", "a, b"), "one at a time"),
        (("--undo",), "there is nothing to undo"),
    ],
)
def test_what_cannot_be_done(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    assert run(monkeypatch, str(folder), *options) == 2
    assert message in capsys.readouterr().err and now(folder) == BEFORE
    assert run(monkeypatch, str(folder / "nowhere"), "--sort") == 2


def test_a_way_back_that_was_broken_off_is_taken_up_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, str(folder), "--add", "new", "--apply") == 0
    write = bulk.write_text

    def full(file: Path, text: str) -> None:
        if file.stem == "d":
            raise OSError(28, "No space left on device")
        write(file, text)

    monkeypatch.setattr(bulk, "write_text", full)
    assert run(monkeypatch, str(folder), "--undo") == 2
    assert now(folder) != BEFORE
    monkeypatch.setattr(bulk, "write_text", write)
    assert run(monkeypatch, str(folder), "--undo") == 0
    assert now(folder) == BEFORE


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("tagger")
    network(found / "model.onnx", [0.9, 0.95, 0.0, 0.4, 0.0, 0.0, 0.0], blue=False)
    listed(found / "selected_tags.csv")
    return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"c": "red hair\n"}),
        (("--append", "--exclude", "red_hair"), {"c": None}),
        (("--append", "--ratings"), {
            "a": "red, cat, red, explicit, red hair\n",
            "b": "dog, blue sky, explicit, red hair\n",
            "c": "explicit, red hair\n",
            "d": "cat, old, explicit, red hair\nred, cat, explicit, red hair\n",
        }),
        (("--underscores", "--first", "ohwx"), {"c": "ohwx, red_hair\n"}),
    ],
)  # fmt: skip
def test_a_tagger_tags_what_has_no_caption_and_its_work_can_be_taken_back(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...], expected: dict[str, str | None],
) -> None:  # fmt: skip
    words = (str(folder), "--tag", str(model), *options)
    assert run(monkeypatch, *words) == 0 and now(folder) == BEFORE
    assert run(monkeypatch, *words, "--apply") == 0
    assert now(folder) == BEFORE | {name: text for name, text in expected.items() if text}
    if any(expected.values()):
        assert run(monkeypatch, str(folder), "--undo") == 0 and now(folder) == BEFORE
        assert "tagged with" in capsys.readouterr().out


def test_options_of_a_tagger_need_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, str(folder), "--append", "--sort") == 2
    assert "go with --tag MODEL" in capsys.readouterr().err
    assert run(monkeypatch, str(folder), "--tag", str(folder / "gone")) == 2
    assert "there is no file or folder" in capsys.readouterr().err
    (folder / "c.png").write_bytes(b"no picture")
    network(folder / "model.onnx")
    listed(folder / "selected_tags.csv")
    assert run(monkeypatch, str(folder), "--tag", str(folder), "--apply") == 2
    assert "c.png" in capsys.readouterr().err and now(folder) == BEFORE
