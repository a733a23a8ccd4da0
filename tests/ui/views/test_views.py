"""Runs side by side, the noise panel's numbers, the wish for a try: what pages show, without a page."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.ui.conftest import write_config
from trainer.config.presets.choosing import all_presets
from trainer.errors import UserError
from trainer.journal.run_dir import RunDir
from ui.draft import session
from ui.pages.queue import table_html
from ui.server.media import Media
from ui.views import compare, shelf
from ui.views import noise as noise_views
from ui.views import run as run_views
from ui.views import tries as try_views
from ui.work import noise_numbers, results, tries
from ui.work.history import history
from ui.work.queue import Queue, QueuedRun
from ui.workspace import Workspace


def make_run(place: Workspace, name: str, config: str = "", samples: tuple[int, ...] = ()) -> RunDir:
    run = RunDir(place.root / "output" / name)
    run.samples.mkdir(parents=True)
    run.config.write_text(config or f'[run]\nname = "{name}"\n')
    events = [{"event": "start", "step": 0, "time": 1.0, "steps": 10, "device": "cpu"}]
    events += [{"event": "step", "step": i, "time": 1.0 + i, "loss": 1 / i, "lr": {"unet": 1e-4}} for i in range(1, 11)]
    for step in samples:
        Image.new("RGB", (8, 8)).save(run.sample(step, 0))
        file = run.sample(step, 0).relative_to(run.path).as_posix()
        events.append({"event": "sample", "step": step, "time": 9.0, "files": [file], "prompts": ["a <cat>"]})
    events.append({"event": "stop", "step": 10, "time": 20.0, "reason": "done", "seconds": 3.0})
    run.metrics.write_text("".join(json.dumps(e) + "\n" for e in events))
    return run


def test_only_what_differs_is_listed(place: Workspace) -> None:
    one = make_run(
        place, "one", '[run]\nname = "one"\nseed = 1\n[noise]\noversampling = 64\n[[datasets]]\nresolution = 64\n'
    )
    two = make_run(place, "two", '[run]\nname = "two"\nseed = 1\n[[datasets]]\nresolution = 96\n')
    assert compare.differing([one, two]) == [("noise.oversampling", [64, None]), ("datasets[0].resolution", [64, 96])]
    page = compare.settings_html(["one", "two"], [one, two])
    assert "run.seed" not in page
    assert "noise.oversampling" in page
    assert "not by training loss" in compare.curves_html(["one", "two"], [one, two])


def test_samples_of_the_same_step_stand_in_one_row(place: Workspace) -> None:
    one, two = make_run(place, "one", samples=(2, 4, 6)), make_run(place, "two", samples=(2, 4, 8))
    assert compare.sample_steps([one, two]) == [4, 2, 8, 6]
    media = Media(place.state)
    page = compare.samples_html(media, ["one", "two"], [one, two], 4)
    assert page.count("<img") == 2
    assert "a &lt;cat&gt;" in page
    assert compare.samples_html(media, ["one", "two"], [one, two], 6).count("<img") == 1


def test_a_run_cannot_make_the_page_show_other_files(place: Workspace) -> None:
    """Whoever can write a run's metrics could otherwise have any picture of the machine linked."""
    run = make_run(place, "one")
    outside = place.root / "private.png"
    Image.new("RGB", (8, 8)).save(outside)
    (run.samples / "link.png").symlink_to(outside)
    for file in ("../../private.png", str(outside), "samples/link.png", "config.toml", 7):
        assert run_views.samples_of(run, {"files": [file], "prompts": []}) == []


def test_the_table_of_runs_shows_how_each_ended(place: Workspace) -> None:
    make_run(place, "one")
    page = shelf.runs_html(place, ["output/one"])
    assert "finished" in page
    assert "checked" in page
    assert "10 / 10" in page
    assert "No runs yet" in shelf.runs_html(Workspace(place.root / "empty"), [])


def test_validation_is_drawn_with_its_interval_and_its_words(place: Workspace) -> None:
    run = make_run(place, "one")
    with run.metrics.open("a") as file:
        for step, loss in ((5, 0.5), (10, 0.4)):
            event = {
                "event": "validation", "step": step, "time": 3.0, "loss": loss, "training_loss": loss, "base_loss": 0.6,
                "better": [0.1, 0.05, 0.15], "best": 10, "message": "better than the base by 10 %",
            }  # fmt: skip
            file.write(json.dumps(event) + "\n")
    page = run_views.curves_html(history(run))
    assert "<polygon" in page
    assert "best: step 10" in page
    assert "better than the base by 10 %" in page


def test_what_is_held_to_the_base_has_a_plot_where_a_run_logs_it(place: Workspace) -> None:
    run = make_run(place, "one")
    assert "What is held to the base" not in run_views.curves_html(history(run))
    steps = [
        {"event": "step", "step": 11 + i, "time": 3.0, "loss": 0.5, "lr": {}, "preservation": 0.1 * i} for i in (0, 1)
    ]
    with run.metrics.open("a") as file:
        file.writelines(json.dumps(step) + "\n" for step in steps)
    assert "What is held to the base" in run_views.curves_html(history(run))


def test_results_and_reports_can_be_downloaded(place: Workspace) -> None:
    run = make_run(place, "one")
    for name in ("one.safetensors", "one-step000005.safetensors", "learning-report.html"):
        (run.path / name).write_bytes(b"x")
    assert [p.name for p in results.files_of(run)] == ["one.safetensors", "one-step000005.safetensors"]
    page = compare.files_html(Media(place.state), ["one"], [run])
    assert "Learning report" in page
    assert page.count("download>") == 4


def test_the_effect_of_k_agrees_with_what_is_known() -> None:
    """Distance drop and alignment of nearest-of-64 at three sizes, and E[max of k normals]."""
    for side, drop in ((256, 2.25), (512, 1.12), (1024, 0.56)):
        numbers = noise_numbers.typical(side, side)
        point = next(p for p in numbers.points if p.k == 64)
        assert point.distance_drop == pytest.approx(drop, abs=0.02)
        assert point.alignment == pytest.approx(1.91, abs=0.03)
    assert noise_numbers.typical(256, 256).points[-1].strength > 1
    by_k = {p.k: p.alignment for p in noise_numbers.typical(512, 512).points}
    assert (by_k[4], by_k[256]) == pytest.approx((0.84, 2.33), abs=0.04)
    assert any(p.k == 100 for p in noise_numbers.typical(512, 512, 100).points)


def test_a_measured_report_is_preferred_and_a_damaged_one_passed_over(tmp_path: Path) -> None:
    found = {
        "distance_drop_percent": 2.0, "alignment_sigma": 1.9, "pull": 0.03, "strength": 1.0, "milliseconds": 0.1,
        "equivalent_timestep": {"499": 490.0},
    }  # fmt: skip
    report = tmp_path / "noise-report.json"
    report.write_text(json.dumps({"shape": [4, 8, 8], "images": 5, "oversampling": {"64": found, "2": found}}))
    numbers = noise_numbers.measured(report)
    assert numbers is not None
    assert [p.k for p in numbers.points] == [2, 64]
    words = noise_views.words_html(numbers, 64)
    assert "measured on 5 of your images" in words
    assert "499 acts as 490" in words
    assert "no sign of better images" in words
    for damaged in (
        "",
        "{}",
        "[]",
        '{"shape": 3}',
        json.dumps({"shape": [4], "images": 5, "oversampling": {"x": found}}),
    ):
        report.write_text(damaged)
        assert noise_numbers.measured(report) is None


def test_the_plot_of_timesteps_is_the_law_that_is_trained() -> None:
    values = {"min": 0, "max": 1000, "distribution": "uniform", "mean": 0.0, "std": 1.0}
    values |= {"alpha": 1.0, "beta": 1.0, "weights": [], "shift": 1.0}
    even, edges = noise_views.shares(values)
    assert np.allclose(even, 1)
    assert edges[-1] == 1000
    half, _ = noise_views.shares({**values, "min": 500})
    assert half[:20].sum() == 0
    assert np.allclose(half[20:], 2)
    page = session.new()
    assert "<polyline" in noise_views.timesteps_html(page)
    wrong = session.Page(page.draft, {**page.controls, "timesteps.std": "-1"})
    assert "when these settings are valid" in noise_views.timesteps_html(wrong)


def test_resolution_and_k_are_read_from_the_form() -> None:
    page = session.new()
    assert noise_numbers.resolution(page) == (512, 512)
    wide = session.Page(page.draft, {**page.controls, "datasets[].resolution": "768x512"})
    assert noise_numbers.resolution(wide) == (768, 512)
    general = {**page.controls, "datasets[].resolution": "", "general.resolution": "1024"}
    assert noise_numbers.resolution(session.Page(page.draft, general)) == (1024, 1024)
    assert noise_views.chosen_k(page) == 0
    assert noise_views.chosen_k(session.Page(page.draft, {**page.controls, "noise.oversampling.k": "64"})) == 64
    off = session.Page(page.draft, {**page.controls, "noise.oversampling.k": "off"})
    assert noise_views.chosen_k(off) == 0


def test_a_wish_becomes_arguments_that_cannot_be_options(place: Workspace) -> None:
    run = make_run(place, "one")
    (run.path / "one.safetensors").write_bytes(b"x")
    name = next(iter(results.results(place)))
    assert name == "output/one / one.safetensors"
    wanted = tries.wish(place, [name], "--config=/etc/passwd\n\na cat", "0, 0.5 1", "7", "4", "3.5")
    arguments = wanted.arguments(name, Path("out.png"))
    assert arguments[:2] == ["sample", str(run.config)]
    assert "--prompt=--config=/etc/passwd --d 7 --l 3.5" in arguments
    assert "--prompt=a cat --d 8 --l 3.5" in arguments
    assert "--strength=0,0.5,1" in arguments
    assert all(a.startswith("--") or arguments[i - 1] == "--set" for i, a in enumerate(arguments) if i > 1)
    with pytest.raises(UserError) as told:
        tries.wish(place, ["/etc/passwd"], "", "x", "-1", "0", "nan")
    assert len(told.value.problems) == 6


def test_a_grid_has_a_row_for_each_prompt_and_guidance_from_the_same_noise(place: Workspace) -> None:
    run = make_run(place, "one")
    names = []
    for name in ("one", "one-best"):
        (run.path / f"{name}.safetensors").write_bytes(b"x")
        names.append(f"output/one / {name}.safetensors")
    wanted = tries.wish(place, names, "a <cat> --w 64\na dog", "0, 1", "7", "4", "3, 9")
    assert wanted.lines() == [
        "a <cat> --d 7 --l 3 --w 64", "a <cat> --d 7 --l 9 --w 64", "a dog --d 8 --l 3", "a dog --d 8 --l 9",
    ]  # fmt: skip
    folder = run.path / tries.FOLDER / "00000000000000000001-abcd"
    for number, row, column in itertools.product(range(2), range(4), range(2)):
        file = folder / str(number) / f"{row}-{column}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    (folder / "1" / "3-1.png").unlink()
    (folder / "grid.json").write_text(tries._grid(wanted, folder, 2).model_dump_json())
    assert tries.kept(place) == [folder]
    page = try_views.grid_html(Media(place.state), folder)
    assert page.count("<img") == 15
    assert "a &lt;cat&gt; --w 64 (guidance 9)" in page
    assert page.index("one.safetensors at 1") < page.index("one-best.safetensors at 0")
    (folder / "grid.json").write_text('{"rows": ["a"], "columns": ["b"], "about": "", "pictures": [["../../x.png"]]}')
    assert "<img" not in try_views.grid_html(Media(place.state), folder)
    with pytest.raises(UserError, match="at most 200 are drawn"):
        tries.wish(place, names, "\n".join("abcdefgh"), "1 2 3 4 5", "7", "4", "1 2 3")


def test_the_queue_page_escapes_and_offers_what_can_be_done() -> None:
    items = [
        QueuedRun(id="a", name="<b>", source="x.toml", state="running"),
        QueuedRun(id="b", name="two", source="x.toml"),
        QueuedRun(id="c", name="three", source="x.toml", state="failed", message="it <failed>"),
    ]
    page = table_html(Queue(items=items), going=True)
    assert "&lt;b&gt;" in page
    assert "it &lt;failed&gt;" in page
    assert page.count("Up: two") == 1
    assert page.count("Remove: ") == 2
    assert "press Start queue" in table_html(Queue(items=items), going=False)
    assert "The queue is empty" in table_html(Queue(), going=False)


def test_a_preset_keeps_what_was_chosen(place: Workspace) -> None:
    write_config(place, "mine")
    before = session.open_config(place, "mine.toml")
    for name in (preset.name for preset in all_presets()):
        page = session.open_preset(name, before)
        assert page.controls["run.name"] == "mine"
        assert page.controls["model.base"] == "base"
        assert page.controls["datasets[].subsets[].image_dir"] == "photos"
        assert page.draft.file == ""
        assert page.problems == [], f"{name}: {page.problems}"
        assert session.oversampling_choice(page.controls) == "Off"
    for wrong, message in (("../x", "unknown word"), ("", "no family")):
        with pytest.raises(UserError, match=message):
            session.open_preset(wrong, before)


def test_what_is_unsaved_and_what_is_no_default_is_shown(place: Workspace) -> None:
    write_config(place, "mine", steps=7)
    page = session.open_config(place, "mine.toml")
    assert not session.changed(page)
    assert session.unsaved(place, page) == ""
    edited = session.page_of(page.draft.model_dump_json(), list({**page.controls, "training.steps": "8"}.values()))
    assert session.changed(edited)
    assert "-steps = 7" in session.unsaved(place, edited)
    assert "+steps = 8" in session.unsaved(place, edited)
    assert ("training.steps", "1600", "8") in session.from_defaults(edited)
    saved = session.save(place, edited)
    assert not session.changed(saved)
    assert "steps = 8" in (place.root / "mine.toml").read_text()
