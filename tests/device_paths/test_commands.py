"""Commands beside `train` on the simulated card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.device_paths.card_runs import ON_CARD, project, train_on_cpu
from tests.reliability import small
from tests.simulated_device import simulated_card
from tests.trainer.commands.test_bad_input import command

PROMPT = ("--prompt", "a cat", "--set", "samples.width=16", "--set", "samples.height=16", "--set", "samples.steps=2")


def test_noise_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = project(tmp_path / "a project")
    monkeypatch.setattr("trainer.reports.noise.comparison.MOST_NUMBERS", {"cpu": 2**12, "cuda": 2**12})
    with simulated_card() as card:
        code, text = command(
            monkeypatch, capsys, "noise", str(file), "--set", ON_CARD, "--set", "noise.oversampling=4", "--images", "3"
        )
    assert code == 0, text
    found = json.loads((small.run_dir(file).path / "noise-report.json").read_text())
    assert "Simulated GPU" in json.dumps(found)
    assert card.record.launched


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "dpmsolver++"])
def test_samples_of_a_lora_are_those_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sampler: str
) -> None:
    file = project(tmp_path / "a project")
    train_on_cpu(file, "training.steps=2")
    lora = small.run_dir(file, "cpu").path / "cpu.safetensors"
    own = (*PROMPT, "--set", f"samples.sampler={sampler}", "--lora", str(lora))
    with simulated_card():
        code, text = command(
            monkeypatch, capsys, "sample", str(file), *own, "--set", ON_CARD, "-o", str(tmp_path / "card.png")
        )
    assert code == 0, text
    code, text = command(monkeypatch, capsys, "sample", str(file), *own, "-o", str(tmp_path / "cpu.png"))
    assert code == 0, text
    card, cpu = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("card", "cpu"))
    assert np.array_equal(card, cpu)


def test_cache_and_preflight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project(tmp_path / "a project")
    on_disk = ("--set", "data.cache_to_disk=true")
    with simulated_card():
        code, text = command(monkeypatch, capsys, "cache", str(file), *on_disk, "--set", ON_CARD)
        assert code == 0, text
    with simulated_card():
        code, text = command(monkeypatch, capsys, "check", str(file), "--preflight", "--set", ON_CARD)
        assert code == 0, text
    assert "of 80.0 GB on cuda" in text


def test_memory_that_runs_out_has_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project(tmp_path / "a project")
    output = tmp_path / "card.png"
    for arguments, told in (
        (("sample", str(file), *PROMPT, "-o", str(output)), "while pictures were drawn"),
        (("noise", str(file)), "while images were encoded"),
        (("train", str(file)), "while (images|captions) were encoded|while the model was brought there"),
    ):
        with simulated_card() as card:
            card.fails_from = 30
            code, text = command(monkeypatch, capsys, *arguments, "--set", ON_CARD)
        assert code == 1
        assert "Traceback" not in text
        assert "ran out" in text, (told, text)
    assert not output.exists()
