"""Presets: every combination is a valid config, names its memory, fits its card, and says what its overlays say."""

from __future__ import annotations

import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import tomlkit
import torch

from tests import full_size
from tests.benchmarks import cases
from trainer.__main__ import main
from trainer.assembly.memory import MemoryEstimate, estimate
from trainer.config import reading
from trainer.config.checks import notes
from trainer.config.presets.choosing import KINDS, Preset, all_presets, choices, preset_of, text_of
from trainer.config.presets.merging import ABOUT, FOLDER, Line, merged, rendered, sections
from trainer.config.schema.whole import BaseConfig
from trainer.errors import UserError

PRESETS = all_presets()


def config_of(preset: Preset) -> BaseConfig:
    return reading.parse(text_of(preset), directory=FOLDER)


def estimated(config: BaseConfig) -> MemoryEstimate:
    return estimate(config, full_size.make(cases.version_of(config)))


def test_there_is_one_for_each_card_and_purpose() -> None:
    wanted = {
        f"{family} {card} {purpose}"
        for family in ("sd15", "sdxl")
        for card in ("8gb", "12gb", "16gb", "24gb", "48gb")
        for purpose in ("character", "style", "object", "full")
    }
    assert wanted - {preset.name for preset in PRESETS} == {"sdxl 8gb full"}  # weights, gradients, states do not fit
    assert {preset.name for preset in PRESETS} <= wanted


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_it_is_a_valid_config_without_noise_oversampling(preset: Preset) -> None:
    config = config_of(preset)
    assert notes(config) == []
    assert list(config.noise.stages()) == []
    asked = reading.parse(text_of(preset).replace("# oversampling", "oversampling"), directory=FOLDER)
    assert list(asked.noise.stages()) == ["oversampling"]
    assert notes(asked) == []


# Each kind of step once: with and without checkpointing, 8-bit base, fused backward. The others differ in batch size;
# `python tests/benchmarks/memory.py` counts all of them, in some minutes.
@pytest.mark.parametrize("name", ["sd15 8gb style", "sd15 8gb full", "sdxl 8gb style", "sdxl 12gb full"])
def test_it_names_the_memory_that_is_estimated(name: str) -> None:
    preset = preset_of(name.split())
    assert preset.memory == pytest.approx(estimated(config_of(preset)).total / 1e9, rel=0.05)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_it_names_its_memory_and_fits_its_card(preset: Preset) -> None:
    assert f"# Memory: {preset.memory:.1f} GB, estimated" in text_of(preset)
    card = int(preset.card.removesuffix("gb"))
    assert preset.memory < 0.92 * card * 1.073741824, "a card's gigabytes are 2**30 bytes; a desktop takes some"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["sd15 12gb style", "sdxl 12gb style"])
def test_the_estimate_is_what_a_gpu_measures(name: str, tmp_path: Path) -> None:
    from tests.benchmarks.memory import measured

    file = tmp_path / "preset.toml"
    file.write_text(text_of(preset_of(name.split())), encoding="utf-8")
    assert estimated(reading.read(file)).training == pytest.approx(measured(file)["training"], rel=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_every_overlay_reaches_a_config(kind: str) -> None:
    """None is misspelt, and none is always overruled."""
    for name in choices(kind):
        tables = tomllib.loads((FOLDER / KINDS[kind] / f"{name}.toml").read_text(encoding="utf-8"))
        mine = [preset for preset in PRESETS if (kind, name) in preset.chosen]
        for case in (None, *{preset.case for preset in PRESETS}):
            plain = tables if case is None else tables.get(case, {})
            said = {
                (section, key, str(value))
                for section, table in plain.items()
                if section != ABOUT
                for key, value in table.items()
                if not isinstance(value, dict)
            }
            assert said <= {found for p in mine if case in (None, p.case) for found in values(p)}, (kind, name, case)


@cache
def values(preset: Preset) -> set[tuple[str, str, str]]:
    config = tomllib.loads(text_of(preset))
    datasets = config["datasets"][0]
    found = {**config, "datasets": datasets, "subsets": datasets["subsets"][0]}
    return {(section, key, str(value)) for section, table in found.items() for key, value in table.items()}


def overlay(text: str) -> dict[str, dict[str, Line]]:
    return sections(tomlkit.parse(text))


def test_the_last_overlay_counts_and_brings_its_comment() -> None:
    first = overlay("[run]\n\n[training]\nsteps = 1  # one\n\n[noise]\n# oversampling = 64  # off\n[lora]\n")
    second = overlay("[training]\nsteps = 2\n[lora]\nrank = 4  # small\n[about]\nmemory = 3\n[x-y.lora]\nrank = 9\n")
    text = rendered(merged([first, second]), ["title"])
    pad = " " * 28
    assert text == (
        f"# title\n\n[training]\nsteps = 2\n\n[noise]\n# oversampling = 64  # off\n\n[lora]\nrank = 4{pad}  # small\n"
    )


def test_the_words_may_come_in_any_order() -> None:
    assert preset_of(["Style", "12GB", "sdxl"]) == preset_of(["sdxl", "12gb", "style"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sdxl 8gb full", "sdxl 8gb full needs a larger card; it fits 12gb or more"),
        ("sdxl 10gb stlye", "'stlye'. Did you mean style?"),
        ("sdxl 10gb style", "unknown word '10gb'"),
        ("sdxl sd15 12gb style", "more than one family"),
        ("sdxl", "no card; choose one of 8gb, 12gb, 16gb, 24gb, 48gb"),
    ],
)
def test_wrong_words_are_answered_with_the_right_ones(words: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        preset_of(words.split())


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["trainer", "preset", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_lists_writes_and_overwrites_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for kind in KINDS for name in choices(kind))
    target = tmp_path / "my.toml"
    words = ["sdxl", "12gb", "style"]
    assert run(monkeypatch, *words) == 0
    assert capsys.readouterr().out == text_of(preset_of(words))
    assert run(monkeypatch, *words, "-o", str(target)) == 0
    assert target.read_text(encoding="utf-8") == text_of(preset_of(words))
    target.write_text("mine", encoding="utf-8")
    capsys.readouterr()
    assert run(monkeypatch, *words, "-o", str(target)) == 2
    assert "my.toml is there already" in capsys.readouterr().err
    assert target.read_text(encoding="utf-8") == "mine"
    assert run(monkeypatch, *words, "-o", str(target), "--overwrite") == 0
    assert "my-style" in target.read_text(encoding="utf-8")
    for wrong in (tmp_path, tmp_path / "none" / "my.toml"):
        assert run(monkeypatch, *words, "-o", str(wrong)) == 2
        assert "must be a file in a folder that is there" in capsys.readouterr().err
    assert run(monkeypatch, "sdxl", "9gb", "style", "-o", str(tmp_path / "no.toml")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.toml"]
