"""The noise report from a config to its files, what it advises, and the one-line warning."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from tests.trainer.reports.noise.test_effect import SD, schedule, unit_latents, zero_terminal
from tests.trainer.reports.test_html import parsed
from tests.trainer.runs import make_project
from trainer import registry
from trainer.__main__ import app
from trainer.batch import NoiseSchedule
from trainer.journal.run_dir import RunDir
from trainer.reports.noise.advice import advice, headline
from trainer.reports.noise.columns import lines, size
from trainer.reports.noise.comparison import NoiseReport, ReportRequest, report, settings_of, value_with_pull
from trainer.reports.noise.effect import FlatLatents
from trainer.reports.noise.page import noise_page
from trainer.reports.noise.warning import assumed, warning

REQUIRED = {"distance_drop_percent", "alignment_sigma", "cosine", "variance_change_percent", "snr_multiplier",
            "milliseconds", "extra_bytes"}  # fmt: skip


def settings(name: str, **values: object) -> Any:
    return registry.find("noise", name).Settings(**values)


def asked(objective: str = "epsilon", alphas_cumprod: Tensor | None = SD, **stages: Any) -> ReportRequest:
    return ReportRequest(
        objective=registry.find("objectives", objective)(NoiseSchedule(1000, alphas_cumprod)),
        objective_name=objective,
        stages=stages,
        batch_size=4,
        draws=256,
    )


@pytest.fixture(scope="module")
def small() -> NoiseReport:
    """40 latents of 256 numbers, k = 100 configured."""
    return report(unit_latents(40, 4, 8, 8), asked(oversampling=settings("oversampling", k=100)))


def texts(found: NoiseReport) -> str:
    return " ".join(f"{one.head}. {one.text}" for one in advice(found))


def test_json_has_the_promised_keys(small: NoiseReport) -> None:
    found = json.loads(json.dumps(small.as_dict(), allow_nan=False))
    assert found["images"] == 40
    assert found["shape"] == [4, 8, 8]
    assert found["latent_rms"] == pytest.approx(1, abs=0.02)
    assert list(found["oversampling"]) == ["2", "4", "8", "16", "32", "64", "100", "128", "256", "512", "1024"]
    assert list(found["assignment"]) == ["8", "16", "32"]  # as far as 40 images allow
    for row in [*found["oversampling"].values(), *found["assignment"].values()]:
        assert row.keys() >= REQUIRED
        assert list(row["snr_multiplier"]) == ["99", "499", "749", "999"]
        assert row["milliseconds"] > 0
    nats = {k: row["information_nats"] for k, row in found["oversampling"].items()}
    assert nats["64"] == pytest.approx(math.log(64) - 1 + 1 / 64)
    assert [k for k, row in found["oversampling"].items() if row["configured"]] == ["100"]


def test_progress_counts_every_setting() -> None:
    seen: list[tuple[int, int]] = []
    wanted = replace(asked(), draws=16)
    report(unit_latents(8, 1, 4, 4), wanted, lambda done, total: seen.append((done, total)))
    assert seen == [(n + 1, settings_of(wanted, 8)) for n in range(11)]


def test_a_pool_named_by_the_batch_stands_at_its_number() -> None:
    found = report(
        unit_latents(8, 1, 4, 4), replace(asked(assignment=settings("assignment", pool="step")), accumulation=2)
    )
    stage, chosen = found.configured or pytest.fail("nothing is configured")
    assert (stage.name, chosen.value, chosen.together) == ("assignment", 8, 8)


def test_other_settings_of_the_stage_are_kept() -> None:
    """metric = cosine leaves the noise's length alone; among = 8 leaves out what has fewer candidates."""
    own = settings("oversampling", k=64, metric="cosine", among=8)
    found = report(unit_latents(40, 4, 8, 8), replace(asked(oversampling=own), draws=2048)).as_dict()["oversampling"]
    assert next(iter(found)) == "8"
    assert abs(found["1024"]["variance_change_percent"]) < 1


def test_a_stage_without_values_to_compare_is_reported_when_it_is_on() -> None:
    """The control `matched` pulls as the nearest of k does, and says nothing of information."""
    found = report(unit_latents(40, 4, 8, 8), replace(asked(matched=settings("matched", k=64)), draws=2048))
    stage, chosen = found.configured or pytest.fail("nothing is configured")
    assert (found.stages[0].name, len(stage.settings), chosen.information) == ("matched", 1, None)
    nearest = found.as_dict()["oversampling"]["64"]
    assert chosen.effect.pull == pytest.approx(nearest["pull"], rel=0.05)
    assert "matched at k = 64" in headline(found)
    parsed(noise_page(found, "x"))


def test_the_page_tells_all_numbers_and_stands_alone(small: NoiseReport) -> None:
    page = noise_page(small, "<my> run")
    checker = parsed(page)
    words = " ".join(checker.text)
    assert "Noise report: <my> run" in words
    assert "<my>" not in page
    assert "100 (yours)" in words
    for stage in small.stages:
        for s in stage.settings:
            assert f"{-s.effect.distance_drop_percent:+.2f} %" in words
    assert "no evidence" in words
    assert sum(tag == "svg" for tag, _ in checker.tags) == 6
    assert not {"script", "link", "img"} & {tag for tag, _ in checker.tags}


def test_the_terminal_gets_aligned_tables(small: NoiseReport) -> None:
    found = lines(small)
    rows = found[found.index("oversampling:") + 1 :][:12]
    assert len({len(row) for row in rows}) == 1
    assert sum("(yours)" in row for row in rows) == 1


def test_advice_on_small_latents_names_a_gentler_value(small: NoiseReport) -> None:
    assert "strong here" in texts(small)
    assert "k = 100" in headline(small)
    assert "oversampling: k = 2;" in texts(small)  # exact: 2 pulls .029, which is .97 of the reference
    assert "assignment: less than pool = 8" in texts(small)


def test_advice_on_plain_noise_and_large_latents() -> None:
    found = report(unit_latents(4, 16, 64, 64), replace(asked(), draws=8))
    assert "plain noise" in headline(found)
    heads = [one.head for one in advice(found)]
    assert heads[0] == "Plain noise"
    assert "Large latents: 65,536 numbers" in heads
    assert "none up to k = 1024" in texts(found)


def test_advice_on_few_images_counts_nats(small: NoiseReport) -> None:
    """ln 40 = 3.7 nats: 128 candidates tell 40 images apart; half of it, 1.8, is what 16 stay below."""
    assert "A small set: 40 images" in texts(small)
    assert "oversampling from k = 128 (3.9 nats), while k = 16 stays below half" in texts(small)
    many = replace(small, sizes=(((64, 64), 5000),))
    assert "small set" not in texts(many)


def test_advice_on_pure_noise_at_the_end(small: NoiseReport) -> None:
    assert "pure noise" not in texts(small)
    zero = report(
        unit_latents(8, 1, 4, 4), asked("velocity", zero_terminal(SD), oversampling=settings("oversampling", k=4))
    )
    assert "pure noise" in texts(zero)
    assert zero.as_dict()["oversampling"]["4"]["snr_multiplier"]["999"] is None


def test_advice_on_images_that_look_alike() -> None:
    alike = FlatLatents.of(unit_latents(20, 1, 8, 8).x.reshape(20, 1, 8, 8) + 2)
    found = report(alike, asked(oversampling=settings("oversampling", k=8)))
    assert "look alike: 8" in texts(found)  # 80 %
    noise = found.as_dict()
    assert noise["oversampling"]["8"]["drift_sigma"] > 1 > noise["assignment"]["8"]["drift_sigma"]


def test_advice_on_latents_of_a_wrong_vae(small: NoiseReport) -> None:
    assert "unusual size" not in texts(small)
    assert "unusual size: 0.06" in texts(replace(small, latent_rms=0.06))


def test_warning_names_the_value_that_is_as_strong() -> None:
    """256 numbers: k = 64 pulls four times as hard as at 4,096; 2 is as strong as the authors' (exactly 2.1)."""
    line = warning(
        assumed((4, 8, 8)),
        "oversampling",
        settings("oversampling", k=64),
        images=5000,
        batch_size=4,
        schedule=schedule(),
    )
    assert line is not None
    assert "\n" not in line
    times = re.search(r"acts (\d\.\d) times", line) or pytest.fail(line)
    assert float(times[1]) == pytest.approx(4.0, abs=0.2)
    acts = re.search(r"t = 500 trains as t = (\d+)", line) or pytest.fail(line)
    assert int(acts[1]) == pytest.approx(427, abs=4)
    assert "as strong as that would be: k = 2." in line


def test_weaker_values_go_together_with_the_other_settings() -> None:
    """Any of the 3 nearest: there is no k = 2 to compare with. The report's sweep and the warning ask alike."""
    own = settings("oversampling", k=8, among=3)
    line = warning(assumed((4, 4, 4)), "oversampling", own, images=5000, batch_size=4)
    assert line is not None
    assert re.search(r"as strong as that would be: (less than )?k = 4\b", line), line
    found = report(unit_latents(40, 4, 4, 4), asked(oversampling=own))
    stage = next(stage for stage in found.stages if stage.name == "oversampling")
    assert [s.value for s in stage.settings] == [4, *(2**n for n in range(3, 11))]
    assert [s.value for s in stage.settings if s.configured] == [8]


def test_no_warning_without_reason() -> None:
    quiet = settings("oversampling", k=64)
    assert warning(assumed((4, 32, 32)), "oversampling", quiet, images=5000, batch_size=4) is None
    assert warning(assumed((4, 64, 64)), "oversampling", quiet, images=5000, batch_size=4) is None
    shape = settings("offset", strength=0.1)
    assert warning(assumed((4, 8, 8)), "offset", shape, images=1, batch_size=4) is None


def test_warning_of_very_small_sets() -> None:
    small = warning(assumed((4, 64, 64)), "oversampling", settings("oversampling", k=64), images=20, batch_size=4)
    assert small is not None
    assert "20 images" in small
    assert warning(assumed((4, 64, 64)), "oversampling", settings("oversampling", k=4), images=20, batch_size=4) is None


@pytest.mark.parametrize(("pull", "expected"), [(1.0, 2.0), (0.5, 2**0.5), (1.5, 2**1.5), (2.0, 4.0), (2.1, None)])
def test_value_with_a_pull(pull: float, expected: float | None) -> None:
    assert value_with_pull([(2, 1.0), (4, 2.0)], pull) == (None if expected is None else pytest.approx(expected))


def test_sizes_are_readable() -> None:
    assert [size(n) for n in (0, 1023, 1536, 5 * 2**20, None)] == ["0 bytes", "1023 bytes", "1.5 KB", "5.0 MB", "?"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "mine", images=5)


def test_the_command_writes_the_report_and_leaves_the_run_free(project: Path) -> None:
    done = CliRunner().invoke(app, ["noise", str(project), "--set", "noise.oversampling=8", "--images", "2"])
    assert done.exit_code == 0, done.output
    folder = project.parent / "output" / "run"
    assert sorted(path.name for path in folder.iterdir()) == ["noise-report.html", "noise-report.json"]
    assert not RunDir(folder).used
    found = json.loads((folder / "noise-report.json").read_text(encoding="utf-8"))
    assert found["images"] == 2
    assert found["sizes"] == {"32x32": 3, "24x40": 2}
    assert found["shape"] == [4, 16, 16]
    assert found["oversampling"]["8"]["configured"]
    assert "k = 8" in done.output


def test_a_broken_image_is_named(project: Path) -> None:
    for path in (project.parent / "photos").glob("*.png"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    done = CliRunner().invoke(app, ["noise", str(project)])
    assert done.exit_code != 0
    assert ".png" in str(done.exception)


def test_latents_are_those_that_train(project: Path) -> None:
    """A picture of one grey gives the latent that the base's VAE makes of it."""
    from trainer.assembly.data import scan_data
    from trainer.assembly.model import open_family
    from trainer.config import reading
    from trainer.journal.console import Console
    from trainer.reports.noise.sample import encode, sample

    for path in (project.parent / "photos").glob("*.png"):
        Image.fromarray(np.full((32, 32, 3), 200, dtype=np.uint8)).save(path)
    config = reading.read(project, [])
    family = open_family(config)
    data = scan_data(config, Console(quiet=True), family)
    with torch.no_grad():
        found = encode(sample(data, 3, seed=0), family.encode_images)
        expected = family.encode_images(torch.full((1, 3, 32, 32), 2 * 200 / 255 - 1))
    assert found.shape == (3, 4, 16, 16)
    assert torch.allclose(found, expected.expand_as(found), atol=1e-4)


def test_a_run_and_a_check_warn_in_one_line(project: Path) -> None:
    """Five images: 64 candidates can tell them apart. Plain noise says nothing."""
    strong = ["--set", "noise.oversampling=64"]
    for command, more in (("check", []), ("train", ["--set", "training.steps=1"])):
        done = CliRunner().invoke(app, [command, str(project), *strong, *more])
        assert done.exit_code == 0, done.output
        assert sum(line.startswith("note: noise.oversampling (k = 64)") for line in done.output.splitlines()) == 1
    done = CliRunner().invoke(app, ["check", str(project)])
    assert "note: noise" not in done.output


def test_a_flow_is_reported_in_its_own_times() -> None:
    """From 0, an image, to 1, noise; and pure noise, from which drawing starts, is never seen."""
    found = report(unit_latents(40, 16, 1, 4, 4), asked("flow", None, oversampling=settings("oversampling", k=64)))
    content = found.as_dict()["oversampling"]["64"]
    assert list(content["equivalent_timestep"]) == ["0.100", "0.500", "0.750", "1.000"]
    assert content["equivalent_timestep"]["1.000"] == pytest.approx(content["flow_time"], abs=2e-3)
    assert found.shape == (16, 1, 4, 4) and found.dimension == 256
    assert re.search(r"t = 0\.501 trains as t = 0\.4\d\d", headline(found))
    assert "t = 1.000 acts as" in "\n".join(lines(found))
    assert f"the noisiest input of the training is that of time {content['flow_time']:.3f}" in texts(found)
    page = noise_page(found, "run")
    assert "time s (0 = image, right = noise)" in page and "flow: t = 1 acts as" not in page
