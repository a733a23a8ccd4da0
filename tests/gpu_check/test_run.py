"""The check of a card on a machine without one: all is measured, told, written at once, or named as left out."""

from __future__ import annotations

import ast
import json
import time
from pathlib import Path

import pytest
import torch

from gpu_check import architecture, case, encoding, levers, noise, plan, run, steps, suite, told
from gpu_check.case import Case
from gpu_check.run import Check
from tests.simulated_device import simulated_card
from trainer.assembly.memory import passes

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
NOT_NEEDED = {"gradio", "tensorboard", "bitsandbytes", "sklearn", "pytorch_optimizer", "open_clip", "playwright"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = case.project(tmp_path_factory.mktemp("check") / "tiny", "tiny", pictures=2)
    architecture.write_outline("tiny", folder / "base")
    return {"tiny": folder}


def test_the_command_measures_tells_and_writes_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        Case("LoRA b1", "tiny"),
        Case("LoRA b1 absurd", "tiny", 1, ("lora.rank=-1",)),
        Case("x", "tiny", needs="?"),
    ]
    monkeypatch.setattr(plan, "cpu_cases", lambda: cases)
    monkeypatch.setattr(run.machine, "missing", lambda: {"?": "nothing"})
    monkeypatch.setattr(steps, "TOGETHER", 1)
    monkeypatch.setattr(steps, "WARM_UP", 1)
    monkeypatch.setattr(run, "project", lambda *a: case.project(*a, pictures=2))
    written: list[list[str]] = []
    line, file = told.line, tmp_path / "found.json"
    monkeypatch.setattr(told, "line", lambda *a: (written.append([*json.loads(file.read_text())]), line(*a))[1])
    run.main(5, file)
    found = json.loads(file.read_text())
    assert [keys[-1] for keys in written] == ["speeds", "speeds", "speeds", "noise", "encoding"]
    assert {"seconds", "images_per_second", "share_of_roofline"} <= found["trainings"]["tiny LoRA b1"].keys()
    assert "lora.rank" in found["trainings"]["tiny LoRA b1 absurd"]["error"]
    assert found["left_out"] == {"nothing": "? is not installed", "tiny x": "? is not installed"}
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0] or found["versions"]["torch"]
    said = capsys.readouterr().out
    assert run.NO_CARD in said and "tiny LoRA b1: 0." in said and "left out: tiny x" in said


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    check = Check(tmp_path / "found.json", time.monotonic(), lambda line: None)
    run._one(check, "noise", "SDXL", CPU, lambda: pytest.fail("it began"))
    assert json.loads(check.file.read_text())["left_out"] == {"noise, SDXL": "no time was left; give more --minutes"}


def test_a_case_is_measured_on_a_card(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TOGETHER": 1, "WARM_UP": 1, "LEAST": 1}.items():
        monkeypatch.setattr(steps, name, value)
    tried = Case("LoRA int8", "tiny", 2, lever=levers.int8_products)
    with simulated_card() as card:
        figures = steps.measure(tried, steps.Bench(CUDA, folders, 1e12, 0.0))
    assert "error" not in figures
    assert 0 < figures["peak_bytes"] <= card.memory
    assert 0.5 < figures["peak_bytes"] / figures["estimated_bytes"] < 2
    assert figures["images_per_second"] == pytest.approx(2 / figures["seconds"])
    assert figures["share_of_roofline"] == pytest.approx(figures["operations"] / figures["seconds"] / 1e12)


def test_a_case_too_large_for_the_card_is_told(folders: dict[str, Path]) -> None:
    with simulated_card(memory=3_000_000):
        figures = steps.measure(Case("LoRA too large", "tiny", 8), steps.Bench(CUDA, folders, 1e12))
    assert "ran out" in figures["error"] or "out of memory" in figures["error"]
    assert "out" in told.line("x", figures)


def test_recomputation_is_no_work_done(folders: dict[str, Path]) -> None:
    found = [
        passes(Case("", "tiny", 1, settings).config(folders["tiny"], CPU))
        for settings in ((), plan.RECOMPUTED, plan.FULL, (*plan.FULL, "training.gradient_checkpointing='selective'"))
    ]
    assert found == [2, 3, 3, 3.5]


def test_the_published_way_takes_the_nearest() -> None:
    x = torch.randn(3, 2, 4, 4)
    found = noise.published(x, 5, torch.Generator().manual_seed(1))
    candidates = torch.randn(3, 5, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    for row in range(3):
        far = [float((c - x[row]).norm()) for c in candidates[row]]
        assert torch.equal(found[row], candidates[row][far.index(min(far))])


def test_noise_and_encoding_on_a_card(folders: dict[str, Path]) -> None:
    with simulated_card():
        drawn = noise.measure(CUDA, (1, 4, 8, 8), (16,))
        encoded = encoding.measure("tiny", steps.Bench(CUDA, folders, 1e12))
    assert drawn["k=16"]["bytes"] < drawn["published k=16"]["bytes"]
    assert encoded["batch"] >= 1
    assert 0 < encoded["relative_difference"] < 0.1


def test_pytests_words_are_counted() -> None:
    said = ".s..F                [100%]\n=== x ===\n"
    said += "FAILED tests/gpu/test_card.py::test_a[1] - AssertionError\nSKIPPED [2] y\n"
    assert suite.counts(said) == {"passed": 3, "failed": ["tests/gpu/test_card.py::test_a[1]"], "skipped": 1}


def test_files_with_gpu_tests_are_found_and_need_no_browser() -> None:
    names = {str(path.relative_to(suite.FOLDER)) for path in suite.files()}
    assert {"gpu/test_card.py", "trainer/device/test_determinism.py", "plugins/noise/test_stages.py"} <= names
    assert not [name for name in names if name.startswith("ui/")]


def test_a_person_reads_memory_presets_and_noise() -> None:
    row = {"seconds": 0.2, "images_per_second": 5.0, "share_of_roofline": 0.3, "first_step_seconds": 1.0}
    memory = {"peak_bytes": 9e9, "estimated_bytes": 10e9, "reserved_bytes": 9.5e9, "other_bytes": 0.5e9}
    found = {
        "device": {"kind": "cuda", "memory": 12 * 2**30, "memory_of_others": 0.7e9},
        "trainings": {"a": {**row, **memory}, "b": {"error": "the memory ran out"}},
        "noise": {"SDXL": {"shape": [], "plain": {"milliseconds": 0.1}, "k=64": {"milliseconds": 0.2},
                           "published k=64": {"milliseconds": 1.0}}},
        "left_out": {},
    }  # fmt: skip
    lines = told.lines(found)
    assert lines[0].startswith("memory: steps took 0.90 to 0.90 of what `check` says; ") and "953.7 MB" in lines[0]
    assert lines[1].endswith("the published way 1 (5.0 x)")
    assert any("sd15 12gb" in line for line in lines)
    assert any("sdxl" in line.lower() for line in lines)
    assert told.table(found["trainings"]).row_count == 2  # type: ignore[arg-type]


def test_a_bare_machine_needs_no_more_than_a_training() -> None:
    """These are imported where they are used, within functions."""
    for path in (p for room in ("trainer", "plugins", "gpu_check") for p in (suite.ROOT / room).rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & NOT_NEEDED, path
