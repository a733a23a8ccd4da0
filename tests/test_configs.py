"""Every example config is valid, every key it shows exists, and the memory that it names is what is estimated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests import full_size
from tests.benchmarks import cases
from trainer import config_io
from trainer.build.estimate import Estimate, estimate
from trainer.config import BaseConfig
from trainer.config_checks import notes

FOLDER = Path(__file__).parents[1] / "configs"
FILES = sorted(FOLDER.glob("*.toml"))
PRESETS = [file for file in FILES if re.search(r"-\d+gb-", file.stem)]
KNOWN: dict[str, Estimate] = {}


def estimated(config: BaseConfig) -> Estimate:
    """Purposes of one card need the same memory: each is counted once."""
    samples = (config.samples.width, config.samples.height, len(config.samples.prompts))
    dataset = (config.datasets[0].resolution, config.datasets[0].batch_size)
    lora = (config.lora.rank, config.lora.conv_rank, config.lora.method)
    key = repr((config.model.base, config.training, lora, config.optimizer.name, config.ema, samples, dataset))
    key = re.sub(r"steps=\d+", "", key)
    if key not in KNOWN:
        KNOWN[key] = estimate(config, full_size.make(cases.version_of(config)))
    return KNOWN[key]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_example_config(file: Path) -> None:
    assert notes(config_io.read(file)) == []


def test_there_is_a_preset_for_each_card_and_purpose() -> None:
    names = {file.stem for file in PRESETS}
    wanted = {
        f"{family}-{card:02d}gb-{purpose}"
        for family in ("sd15", "sdxl")
        for card in (8, 12, 16, 24, 48)
        for purpose in ("character", "style", "object", "full")
    }
    assert wanted - names == {"sdxl-08gb-full"}  # its weights, gradients and states do not fit
    assert names <= wanted


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_a_preset_names_its_memory_and_fits_its_card(file: Path) -> None:
    told = re.search(r"^# Memory: ([\d.]+) GB, estimated", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert told, "no line that tells the memory"
    found = estimated(config_io.read(file)).total / 1e9
    assert float(told[1]) == pytest.approx(found, rel=0.05)
    card = int(re.findall(r"-(\d+)gb-", file.stem)[0])
    assert found < 0.92 * card * 1.073741824, "a card's gigabytes are 2**30 bytes, and a desktop takes some of them"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["sd15-12gb-style", "sdxl-12gb-style"])
def test_the_estimate_is_what_a_gpu_measures(name: str) -> None:
    from tests.benchmarks.memory import measured

    config = config_io.read(FOLDER / f"{name}.toml")
    assert estimated(config).training == pytest.approx(measured(FOLDER / f"{name}.toml")["training"], rel=0.15)
