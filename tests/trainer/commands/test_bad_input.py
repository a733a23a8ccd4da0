"""The command line answers bad input with a clear message, exit code 2, no traceback, and writes nothing."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tests.trainer import runs
from trainer.__main__ import main


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """(exit code, stderr) of the command line, run in this process."""
    monkeypatch.setattr(sys, "argv", ["trainer", *arguments])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.err + captured.out


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return runs.make_project(tmp_path / "a project", images=3)


def truncate(project: Path) -> None:
    file = project.parent / "photos" / "1.png"
    file.write_bytes(file.read_bytes()[:300])


def empty_file(project: Path) -> None:
    (project.parent / "photos" / "1.png").write_bytes(b"")


def empty_folder(project: Path) -> None:
    for file in (project.parent / "photos").iterdir():
        file.unlink()


def no_captions(project: Path) -> None:
    for file in (project.parent / "photos").glob("*.txt"):
        file.unlink()


def latin_caption(project: Path) -> None:
    (project.parent / "photos" / "1.txt").write_bytes("Stra\u00dfe".encode("latin-1"))


def nothing(project: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("damage", "overrides", "expected"),
    [
        (nothing, ["model.base='./none'"], "model.base: there is no file or folder './none' (relative to "),
        (nothing, ["model.base='photos/'"], "cannot be trained: it is none of the models that the families know"),
        (nothing, ["datasets[0].subsets[0].image_dir='phots'"], "datasets[0].subsets[0].image_dir"),
        (empty_folder, [], "no images in"),
        (truncate, [], "1.png"),
        (empty_file, [], "1.png"),
        (no_captions, [], "class_tokens"),
        (latin_caption, [], "1.txt"),
        (nothing, ["general.batch_size=0"], "general.batch_size: found 0, expected at least 1."),
        (nothing, ["noise.oversampling=-3"], "noise.oversampling: found -3, expected at least 0."),
        (nothing, ["noise.oversampling='many'"], "noise.oversampling: found 'many', expected a whole number."),
        (nothing, ["optimizer.name='adamv'"], "optimizer.name: found 'adamv'"),
        (nothing, ["optimizer.args={weigth_decay=1}"], "optimizer.args.weigth_decay: AdamW has no such argument"),
        (nothing, ["training.precision='fp16'"], "training.precision: fp16 needs a GPU"),
        (nothing, ["datasets[0].resolution=51"], "datasets[0].resolution"),
    ],
)
def test_bad_input(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: object,
    overrides: list[str],
    expected: str,
) -> None:
    damage(project)  # type: ignore[operator]
    flags = [flag for override in overrides for flag in ("--set", override)]
    if "resolution" in expected:
        flags += ["--set", "general.enable_bucket=false"]
    code, text = command(monkeypatch, capsys, "train", str(project), *flags)
    assert expected in text
    assert code == 2
    assert "Traceback" not in text
    assert not (project.parent / "output").exists()


def test_skip_broken_goes_on_and_lists(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(project)
    code, text = command(monkeypatch, capsys, "train", str(project), "--set", "data.skip_broken=true")
    assert code == 0
    assert "1.png: skipped" in text


def test_a_folder_that_holds_another_run_is_left_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, capsys, "train", str(project))[0] == 0
    result = project.parent / "output" / "run" / "run.safetensors"
    before = result.read_bytes()
    code, text = command(monkeypatch, capsys, "train", str(project), "--set", "lora.rank=8")
    assert code == 2
    assert "already holds a finished run of another config (different: lora.rank)" in text
    code, text = command(monkeypatch, capsys, "train", str(project))
    assert code == 0
    assert "done already" in text
    code, text = command(monkeypatch, capsys, "train", str(project), "--resume", "--set", "lora.rank=8")
    assert code == 2
    assert "lora.rank: differs from the run" in text
    assert result.read_bytes() == before


def test_check_trains_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = command(monkeypatch, capsys, "check", str(project))
    assert code == 0
    assert "3 images, 3 samples in 2 batches per epoch" in text
    written = {path.name for path in (project.parent / "output").rglob("*") if path.is_file()}
    assert written == {"dataset-report.html", "dataset-report.json", "schedule.html", "what-trains.txt"}


def test_letters_that_a_pipe_of_windows_cannot_hold_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, "cp1252", write_through=True))
    monkeypatch.setattr(sys, "argv", ["trainer", "train", "写真.toml"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert rb"\u5199\u771f.toml" in written.getvalue()
