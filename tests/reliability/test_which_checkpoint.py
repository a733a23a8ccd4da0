"""Which checkpoints are kept, which one a run continues from, and what may differ then."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import tomlkit

from tests.reliability import small
from trainer import __main__
from trainer.errors import UserError
from trainer.run import environment


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return small.make(tmp_path / "a project")


def steps_kept(project: Path, name: str = "run") -> list[int]:
    return sorted(int(f.name[5:]) for f in small.run_dir(project, name).checkpoints.glob("step-*"))


def test_the_newest_and_every_mth_are_kept(project: Path) -> None:
    small.training(project, "save={every=1,keep=2,keep_every=3}", "training.steps=8").run()
    assert steps_kept(project) == [3, 6, 7, 8]


def test_a_million_steps_sort_as_numbers(project: Path) -> None:
    run_dir = small.run_dir(project)
    small.training(project, "save={every=1,keep=10}").run()
    run_dir.checkpoint(6).rename(run_dir.checkpoint(1_000_006))
    small.training(project, "save={every=1,keep=10}", "training.steps=1000006", resume=True).keeper.begin(1_000_006)
    assert steps_kept(project) == [1, 2, 3, 4, 5, 1_000_006]


def test_a_damaged_newest_one_is_named_set_aside_and_costs_no_other(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.training(project, "save={every=2,keep=1}", "run.name='whole'").run()
    stopped = small.training(project, "save={every=2,keep=2}")
    small.stop_after(stopped, 4)
    stopped.run()
    run_dir = small.run_dir(project)
    assert steps_kept(project) == [2, 4]
    (run_dir.checkpoint(4) / "state.json").write_text("{}")
    resumed = small.training(project, "save={every=1,keep=1}", resume=True)
    assert resumed.loop.start.step == 2
    small.stop_after(resumed, 1)
    resumed.run()
    # One is kept: it must be the sound one of step 3, not the damaged one of step 4.
    assert steps_kept(project) == [3]
    small.training(project, "save={every=2,keep=1}", resume=True).run()
    states = {small.state_hash(small.run_dir(project, name).checkpoint(6)) for name in ("run", "whole")}
    assert len(states) == 1


def test_without_a_sound_one_the_run_starts_from_the_beginning(project: Path) -> None:
    stopped = small.training(project)
    small.stop_after(stopped, 2)
    stopped.run()
    shutil.rmtree(small.run_dir(project).checkpoint(2))
    again = small.training(project, resume=True)
    assert again.loop.start.step == 0
    assert again.run() == "done"


def test_a_given_checkpoint_and_what_came_after_it(project: Path) -> None:
    small.training(project, "save={every=1,keep=10}").run()
    run_dir = small.run_dir(project)
    wanted = small.state_hash(run_dir.checkpoint(6))
    resumed = small.training(project, "save={every=1,keep=10}", given=run_dir.checkpoint(2))
    assert resumed.loop.start.step == 2
    small.stop_after(resumed, 1)
    resumed.run()
    # The later ones belong to what was given up: the newest is now that of step 3.
    assert steps_kept(project) == [1, 2, 3]
    aside = sorted(folder.name for folder in run_dir.checkpoints.glob("set-aside-*"))
    assert aside == [f"set-aside-step-{step:06d}" for step in (3, 4, 5, 6)]
    small.training(project, "save={every=1,keep=10}", resume=True).run()
    assert small.state_hash(run_dir.checkpoint(6)) == wanted


def test_a_checkpoint_of_another_run_begins_a_new_one(project: Path) -> None:
    small.training(project, "save={every=1,keep=10}").run()
    given = small.run_dir(project).checkpoint(3)
    branch = small.training(project, "run.name='branch'", "training.steps=4", "optimizer.lr=1e-4", given=given)
    assert branch.loop.start.step == 3
    assert branch.run() == "done"
    assert steps_kept(project) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(UserError, match=r"lora\.rank: differs from the checkpoint"):
        small.training(project, "run.name='other'", "lora.rank=4", given=given)
    with pytest.raises(UserError, match="not a complete checkpoint"):
        small.training(project, "run.name='other'", given=project.parent / "photos")


@pytest.mark.parametrize(
    ("change", "fixed"),
    [
        ("training.steps=8", ""),
        ("optimizer.lr=1e-4", ""),
        ("save.every=1", ""),
        (small.SAMPLES, ""),
        ("schedule={name='cosine'}", ""),
        ("lora.rank=4", "lora.rank"),
        ("training.method='full'", "training.method"),
        ("run.seed=1", "run.seed"),
        ("noise.oversampling=8", r"noise\.oversampling\.k"),
        ("optimizer.name='sgd'", "optimizer.name"),
        ("datasets[0].batch_size=1", "datasets"),
        ("general.caption_dropout_rate=0.5", "general.caption_dropout_rate"),
    ],
)
def test_what_may_change_and_what_may_not(project: Path, change: str, fixed: str) -> None:
    stopped = small.training(project)
    small.stop_after(stopped, 2)
    stopped.run()
    if fixed:
        with pytest.raises(UserError, match=f"{fixed}: differs from the run"):
            small.training(project, change, resume=True)
    else:
        assert small.training(project, change, resume=True).loop.start.step == 2


def test_keys_that_are_younger_than_the_run_have_their_defaults(project: Path) -> None:
    stopped = small.training(project)
    small.stop_after(stopped, 2)
    stopped.run()
    stored = small.run_dir(project).config
    older = tomllib.loads(stored.read_text())
    del older["ema"], older["lora"]["dropout"]
    stored.write_text(tomlkit.dumps(older))
    with pytest.raises(UserError, match=r"lora\.dropout: differs from the run"):
        small.training(project, "lora.dropout=0.5", resume=True)
    assert small.training(project, resume=True).loop.start.step == 2


def test_the_command_line_takes_a_checkpoint_in_either_order(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, bool, Path | None]] = []

    def train(path: Path, overrides: list[str], *, resume: bool, given: Path | None) -> None:
        asked.append((path, resume, given))

    monkeypatch.setattr("trainer.commands.training.train", train)
    folder = project.parent / "photos"

    def call(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["trainer", "train", *arguments])
        with pytest.raises(SystemExit) as stop:
            __main__.main()
        return int(stop.value.code or 0)

    for arguments in ([str(project), "--resume", str(folder)], ["--resume", str(folder), str(project)]):
        assert call(*arguments) == 0
        assert asked.pop() == (project, True, folder)
    assert call("--resume", str(project)) == 0
    assert asked.pop() == (project, True, None)
    assert call(str(project), str(folder)) == 2
    assert asked == []


def test_a_run_that_is_done_says_so(project: Path) -> None:
    small.training(project).run()
    from trainer.assembly.run import training
    from trainer.config import reading
    from trainer.journal.console import Console

    assert training(reading.read(project), Console(quiet=True), resume=True) is None


def test_another_base_under_the_same_name_is_refused(project: Path) -> None:
    stopped = small.training(project)
    small.stop_after(stopped, 2)
    stopped.run()
    weights = project.parent / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.base: its files are not those"):
        small.training(project, resume=True)


def test_other_versions_and_images_are_told(project: Path) -> None:
    stopped = small.training(project)
    small.stop_after(stopped, 2)
    stopped.run()
    file = small.run_dir(project).environment
    told = json.loads(file.read_text())
    told["packages"]["torch"] = "1.0"
    file.write_text(json.dumps(told))
    (project.parent / "photos" / "0.txt").write_text("another caption")
    small.training(project, resume=True).run()
    notices = [e["message"] for e in small.run_dir(project).events() if e["event"] == "notice"]
    assert any("torch 1.0 -> " in line and "not bit for bit" in line for line in notices)
    assert any("the images or captions changed" in line for line in notices)


def test_fingerprints_of_large_files_see_every_training_step(tmp_path: Path) -> None:
    file = tmp_path / "base.safetensors"
    content = bytearray(bytes(range(256)) * 40_000)  # 10 MB
    file.write_bytes(content)
    before = environment.fingerprint(file)
    assert environment.fingerprint(file) == before
    for place in range(0, len(content), 1000):
        content[place] ^= 1
    file.write_bytes(content)
    assert environment.fingerprint(file) != before
    assert environment.fingerprint(tmp_path / "none") is None


def test_nothing_that_is_shared_names_a_path_or_a_secret(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    small.training(project, small.SAMPLES, "save.every=3").run()
    run_dir = small.run_dir(project)
    shared = [*run_dir.path.glob("*.safetensors"), *run_dir.samples.rglob("*.png"), run_dir.environment]
    assert len(shared) > 4
    for file in shared:
        content = file.read_bytes()
        for private in (str(project.parent), str(Path.home()), "hf_secretsecret"):
            assert private.encode() not in content, (file, private)
