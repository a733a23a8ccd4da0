"""The form and the TOML file are two views of one config: every key, both ways, comments kept."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ui.values import another, schema
from trainer.commands import training as commands
from trainer.config import reading
from trainer.config.keys import keys as schema_keys
from trainer.config.presets.choosing import all_presets, text_of
from trainer.errors import UserError
from ui.draft import config as drafts
from ui.draft import entries, session, toml_text
from ui.draft.config import value_at, with_noise_tables
from ui.draft.fields import DATASET, FOLDER, HELD_OUT, Field, all_fields, from_control, noise_headlines, to_control
from ui.draft.session import Page
from ui.pages.form import Form, help_of
from ui.workspace import Workspace

SMALL = """
[model]
base = "base"  # the base

[[datasets]]  # first
resolution = 64

[[datasets.subsets]]
image_dir = "one"  # folder one
num_repeats = 3

[[datasets.subsets]]
image_dir = "two"

[[validation.datasets]]
[[validation.datasets.subsets]]
image_dir = "held-out"
"""
KEYS = list(all_fields())
ENTRY_KEYS = [key for key in KEYS if key.startswith(DATASET)]


def page(text: str = SMALL) -> session.Page:
    return session.opened(drafts.from_text(text))


def typed(before: session.Page, key: str, control: Any) -> session.Page:
    """The page after a person changed one control."""
    return session.page_of(before.draft.model_dump_json(), list({**before.controls, key: control}.values()))


def found(text: str, key: str, dataset: int = 0, folder: int = 0) -> Any:
    """The value of a form key in a TOML text."""
    values: Any = with_noise_tables(tomllib.loads(text))
    if key.startswith(DATASET):
        values = values["datasets"][dataset]
        values = values["subsets"][folder] if key.startswith(FOLDER) else values
        return values.get(key.rpartition(".")[2])
    return value_at(values, key)


def test_every_key_of_the_schema_has_a_control() -> None:
    """All but tables, held-out datasets, which are shown as entries, and lists of tables that stay in the text."""
    wanted = {
        key
        for key, _ in schema_keys()
        if not key.startswith((f"{HELD_OUT}[]", "slider.prompts[]", "slider.targets[]"))
        and not any(other.startswith((f"{key}.", f"{key}[].")) for other, _ in schema_keys())
    }
    assert wanted <= set(KEYS)
    assert {"training.steps", "noise.oversampling.k", "datasets[].subsets[].image_dir"} <= wanted
    form = Form({})
    for key in KEYS:
        form.put(key)
    assert len(form.ordered) == len(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_set_in_the_form_is_found_in_the_toml_and_the_other_way_round(key: str) -> None:
    field, value = all_fields()[key], another(all_fields()[key])
    text = typed(page(), key, to_control(field, value)).text
    assert found(text, key) == value
    assert found(text, "datasets[].subsets[].image_dir", folder=1) == "two", "nothing else may change"
    again = page(text)
    assert from_control(field, again.controls[key]) == value
    assert again.text == text


def test_all_keys_at_once_survive_the_way_through_the_form() -> None:
    controls = {key: to_control(field, another(field)) for key, field in all_fields().items()}
    text = session.page_of(page().draft.model_dump_json(), list(controls.values())).text
    assert {key: found(text, key) for key in KEYS} == {key: another(field) for key, field in all_fields().items()}
    assert page(text).controls == controls
    assert page(text).text == text


def test_an_untouched_file_stays_as_it_is_to_the_byte() -> None:
    for text in (
        SMALL,
        "",
        "# only a comment\n",
        session.NEW,
        *(p.read_text() for p in Path("configs").glob("*.toml")),
        *(text_of(preset) for preset in all_presets()),
    ):
        assert page(text).text == text


@pytest.mark.parametrize("key", ENTRY_KEYS)
def test_options_of_the_second_folder_and_of_a_held_out_set(key: str) -> None:
    field, value = all_fields()[key], another(all_fields()[key])
    second = typed(entries.select(page(), "0:1"), key, to_control(field, value)).text
    assert found(second, key, folder=1 if key.startswith(FOLDER) else 0) == value
    held_out = typed(entries.select(page(), "1:0"), key, to_control(field, value)).text
    there = tomllib.loads(held_out)["validation"]["datasets"][0]
    assert (there["subsets"][0] if key.startswith(FOLDER) else there)[field.name] == value
    assert found(held_out, "datasets[].subsets[].num_repeats") == 3


def test_comments_and_order_survive_a_change() -> None:
    changed = typed(typed(page(), "model.base", "other"), f"{FOLDER}.num_repeats", "5")
    expected = SMALL.replace('"base"  #', '"other"  #').replace("num_repeats = 3", "num_repeats = 5")
    assert changed.text == expected


def test_a_new_section_stands_before_the_images() -> None:
    text = typed(page(), "training.steps", "250").text
    assert text == SMALL.replace("[[datasets]]  # first", "[training]\nsteps = 250\n\n[[datasets]]  # first")


def test_numbers_are_written_as_they_were_typed() -> None:
    assert "lr = 1e-4\n" in typed(page("[optimizer]\nlr = 3e-4\n"), "optimizer.lr", "1e-4").text


def test_an_interval_is_typed_as_text_or_as_a_number() -> None:
    """Every key that is a number or a text, such as sampling every "15m", takes both."""
    numbers = [key for key, field in schema_keys() if key in KEYS and all_fields()[key].kind == "number"]
    intervals = [key for key in numbers if str in get_args(schema()[key].annotation)]
    assert {"samples.every", "validation.every", "save.every"} <= set(intervals)
    for key in intervals:
        for control, value in (("15m", "15m"), ("0.5 epochs", "0.5 epochs"), ("400", 400)):
            changed = typed(page(), key, control)
            assert found(changed.text, key) == value
            assert [p for p in changed.problems if p.control == key] == []
            assert page(changed.text).controls[key] == control
        wrong = typed(page(), key, "sometimes").problems
        assert any(p.control == key and "15m" in p.text for p in wrong), wrong


def test_a_blank_control_takes_the_key_out_of_the_file() -> None:
    assert "num_repeats" not in typed(page(), f"{FOLDER}.num_repeats", "").text
    assert "steps" not in typed(page("[training]\nsteps = 3\n"), "training.steps", "").text


def test_what_was_typed_wrongly_is_reported_beside_its_control_in_the_words_of_the_config() -> None:
    wrong = typed(typed(page(), "training.steps", "many"), f"{FOLDER}.num_repeats", "0")
    texts = {problem.control: problem for problem in wrong.problems}
    assert texts["training.steps"].text == "found 'many', expected a whole number."
    assert texts[f"{FOLDER}.num_repeats"].text == "found 0, expected at least 1."
    assert texts[f"{FOLDER}.num_repeats"].visible(wrong.draft)
    other = entries.select(wrong, "0:1")
    assert not next(p for p in other.problems if p.key == "datasets[0].subsets[0].num_repeats").visible(other.draft)


def test_sizes_that_no_run_would_start_with_are_marked_beside_their_control() -> None:
    wrong = typed(typed(page(), f"{DATASET}.enable_bucket", True), f"{DATASET}.bucket_reso_steps", "256")
    told = [(problem.control, problem.text.partition(" is ")[0]) for problem in wrong.problems]
    assert (f"{DATASET}.bucket_reso_steps", "256") in told
    assert "Ready" not in session.problems_html(wrong, wrong.problems)


def test_an_unknown_key_of_the_file_is_kept_and_named() -> None:
    shown = page(SMALL + "\n[trainning]\nsteps = 3\n")
    assert "[trainning]" in shown.text
    assert any("trainning" in p.key and "training" in p.text for p in shown.problems)


def test_a_headline_alone_stays_a_value_and_becomes_a_table_with_company() -> None:
    start = page("[noise]\noversampling = 64  # k\n")
    assert typed(start, "noise.oversampling.k", "128").text == "[noise]\noversampling = 128  # k\n"
    both = typed(typed(start, "noise.oversampling.metric", "cosine"), "noise.oversampling.k", "128").text
    assert tomllib.loads(both)["noise"]["oversampling"] == {"k": 128, "metric": "cosine"}
    assert "# k" in both


def test_every_noise_plugin_can_be_switched_on_by_its_controls_alone() -> None:
    for plugin, headline in noise_headlines().items():
        key = plugin if plugin in all_fields() else headline
        text = typed(page(), key, to_control(all_fields()[key], another(all_fields()[key]))).text
        config, _ = reading.validate(tomllib.loads(text))
        assert config is not None
        assert plugin.partition(".")[2] in config.noise.stages()
        assert page(typed(page(text), key, to_control(all_fields()[key], None)).text).problems == page().problems


def test_adding_and_removing_folders_and_datasets() -> None:
    three = typed(entries.add_folder(page()), f"{FOLDER}.image_dir", "three")
    assert [s["image_dir"] for s in tomllib.loads(three.text)["datasets"][0]["subsets"]] == ["one", "two", "three"]
    four = typed(typed(entries.add_dataset(three), f"{FOLDER}.image_dir", "four"), f"{DATASET}.resolution", "96")
    assert tomllib.loads(four.text)["datasets"][1] == {"resolution": 96, "subsets": [{"image_dir": "four"}]}
    less = entries.remove(entries.select(four, "0:0"))
    assert [s["image_dir"] for s in tomllib.loads(less.text)["datasets"][0]["subsets"]] == ["two", "three"]
    gone = entries.remove(entries.remove(less))
    assert [d.get("resolution") for d in tomllib.loads(gone.text)["datasets"]] == [96]
    held_out = typed(entries.add_held_out(page()), f"{FOLDER}.image_dir", "more")
    assert [d["subsets"][0]["image_dir"] for d in tomllib.loads(held_out.text)["validation"]["datasets"]] == [
        "held-out",
        "more",
    ]


def test_images_are_added_where_there_are_none_yet_or_as_a_further_folder() -> None:
    one = entries.with_images(page(""), "cats")
    two = entries.with_images(one, "dogs")
    assert [s["image_dir"] for s in tomllib.loads(two.text)["datasets"][0]["subsets"]] == ["cats", "dogs"]
    with pytest.raises(UserError, match="folder"):
        entries.with_images(two, "")


def test_help_tells_bounds_default_and_unit() -> None:
    assert help_of(all_fields()["training.steps"]).endswith("(at least 1; default 1600)")
    assert help_of(all_fields()["model.clip_skip"]).endswith("(0 to 32; default 0)")
    assert "2**63" not in help_of(all_fields()["run.seed"])
    assert "default auto" in help_of(all_fields()["run.device"])
    unit = next(f for f in all_fields().values() if f.unit)
    assert unit.unit in Form({}).put(unit.key).label


def test_only_what_differs_from_the_defaults_is_listed() -> None:
    assert session.from_defaults(page("")) == []
    listed = session.from_defaults(typed(page(""), "noise.oversampling.k", "64"))
    assert [key for key, _, _ in listed] == ["noise.oversampling.k"]


def test_a_key_of_one_word_or_a_list_is_written_as_what_it_is() -> None:
    for text, value in (("random", "random"), ("unet\ntext_encoder", ["unet", "text_encoder"])):
        written = typed(page(""), "model.init", text).text
        assert tomllib.loads(written)["model"]["init"] == value
        assert page(written).controls["model.init"] == text


def test_a_config_grows_from_nothing() -> None:
    started = typed(typed(page(""), "model.base", "base"), f"{FOLDER}.image_dir", "photos")
    assert tomllib.loads(started.text) == {
        "model": {"base": "base"},
        "datasets": [{"subsets": [{"image_dir": "photos"}]}],
    }
    assert started.problems == []


@settings(deadline=None)  # the machine may be busy
@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x7f"), max_size=30))
def test_any_text_survives(text: str) -> None:
    for key in ("save.comment", f"{FOLDER}.caption_prefix", "optimizer.name"):
        field = all_fields()[key]
        assert from_control(field, to_control(field, text)) == text
        if text:
            assert found(typed(page(), key, to_control(field, text)).text, key) == text


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x7f"), max_size=12), max_size=4))
def test_any_lines_survive(lines: list[str]) -> None:
    field: Field = all_fields()["samples.prompts"]
    assert from_control(field, to_control(field, lines)) == lines


@settings(deadline=None)  # the machine may be busy
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**62), 2**62))
def test_any_number_survives(one: float, other: int) -> None:
    for key, value in (("optimizer.lr", one), ("run.seed", other)):
        field = all_fields()[key]
        assert from_control(field, to_control(field, value)) == value


def test_what_check_refuses_is_marked_beside_its_control_in_the_lines_of_check(tmp_path: Path) -> None:
    """The second tier: base, folders, blocks, prompts and output, once the config is right by itself."""
    (tmp_path / "one").mkdir()
    (tmp_path / "x.safetensors").write_text("<html>")
    (tmp_path / "output").touch()
    extra = '[samples]\nprompts = "p.txt"\n[optimizer.rates]\nunet = 1\n'
    shown = page(f'[model]\nbase = "x.safetensors"\n[run]\nname = "x"\n{extra}{SMALL[SMALL.index("[[datasets]]") :]}')
    assert shown.problems == []
    wrong = session.problems_of_files(Workspace(tmp_path), shown)
    at = f"(relative to {tmp_path}, where the config file lies)"
    told = [(problem.control, problem.entry, problem.text) for problem in wrong]
    assert (f"{FOLDER}.image_dir", (0, 1), f"there is no folder 'two' {at}.") in told
    assert any(control == "model.base" and "begins like a web page" in text for control, _, text in told)
    assert ("samples.prompts", None, f"there is no file 'p.txt' {at}.") in told
    assert {control for control, _, _ in told} >= {"run.output_dir"}
    config = tmp_path / "c.toml"
    config.write_text(shown.text)
    with pytest.raises(UserError) as refused:
        commands.check(config, [])
    assert refused.value.problems == [f"{problem.key}: {problem.text}" for problem in wrong]


def shown_problems(page: Page) -> str:
    return session.problems_html(page, page.problems)


def test_a_new_config_has_something_to_choose_and_no_errors() -> None:
    said = shown_problems(session.new())
    assert "Still to choose" in said
    assert "Base model" in said
    assert "data-said" not in said  # no field is marked
    page = session.new()
    wrong = session.page_of(page.draft.model_dump_json(), list({**page.controls, "training.steps": "many"}.values()))
    assert "bad-list" in shown_problems(wrong)


def test_a_config_of_prompts_keeps_them_and_gets_no_images() -> None:
    """Its pairs stay as they were written; what the form has of [slider] is set beside them."""
    text = '[model]\nbase = "base"\n\n[[slider.prompts]]\ntarget = "a cat"  # mine\n'
    changed = typed(typed(page(text), "training.steps", "7"), "slider.denoising_steps", "20")
    now = toml_text.rendered(changed.draft, changed.controls)
    assert 'target = "a cat"  # mine' in now and "datasets" not in now
    assert reading.parse(now, directory=Path()).slider.denoising_steps == 20
    assert "by prompts, without images" in session.summary_html(changed)
