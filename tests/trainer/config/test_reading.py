"""The schema, its errors and the way back to TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from trainer.config import keys as config_keys
from trainer.config import reading
from trainer.config.checks import notes
from trainer.config.schema.base import changed, left_to_the_model
from trainer.config.schema.data import DatasetOptions, SubsetOptions, effective
from trainer.config.schema.whole import Config
from trainer.errors import UserError

GOOD = """
[run]
name = "my-style"
[model]
base = "models/base"
[noise]
oversampling = 64
[general]
caption_extension = ".txt"
[[datasets]]
resolution = [64, 128]
batch_size = 4
[[datasets.subsets]]
image_dir = "photos"
num_repeats = 10
"""


def test_changed_settings_are_checked_and_remember_what_was_written() -> None:
    config = parse(GOOD)
    assert changed(config.run, seed=7).model_dump() == {**config.run.model_dump(), "seed": 7}
    assert changed(config.datasets[0], batch_size=8).model_fields_set == config.datasets[0].model_fields_set
    assert "seed" not in config.run.model_fields_set
    assert changed(config.run, seed=7).model_fields_set == config.run.model_fields_set | {"seed"}
    inner = changed(config, run=changed(config.run, seed=7))
    assert inner.run.seed == 7
    assert inner.run.output_dir == config.run.output_dir  # made absolute when it was read, though not written
    with pytest.raises(ValidationError):
        changed(config.run, seed="seven")
    stage = config.noise.stages()["oversampling"]
    with pytest.raises(ValidationError, match="among"):
        changed(changed(stage, among=5), k=4)


def parse(text: str, *overrides: str, directory: Path = Path("/somewhere")) -> Config:
    return reading.parse(text, overrides, directory=directory)


def problems(text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(text, *overrides)
    return "\n".join(caught.value.problems)


def test_a_good_file_is_read_with_its_types() -> None:
    config = parse(GOOD)
    assert config.run.name == "my-style"
    assert config.datasets[0].resolution == (64, 128)
    assert config.optimizer.lr == 1e-4
    assert list(config.noise.stages()) == ["oversampling"]


def test_the_headline_form_equals_the_table_form() -> None:
    table = GOOD.replace("[noise]\noversampling = 64", "[noise.oversampling]\nk = 64")
    assert table != GOOD
    assert parse(GOOD) == parse(table)


def test_paths_become_absolute_and_hub_ids_stay() -> None:
    config = parse(GOOD)
    assert config.datasets[0].subsets[0].image_dir == "/somewhere/photos"
    assert config.run.output_dir == "/somewhere/output"
    assert config.model.base == "models/base"  # could be a hub id, and nothing lies there
    assert parse(GOOD, "model.base='./models/base'").model.base == "/somewhere/models/base"


def test_values_are_looked_up_in_subset_then_dataset_then_general() -> None:
    text = GOOD.replace('caption_extension = ".txt"', 'caption_extension = ".txt"\nnum_repeats = 3\nbatch_size = 9')
    config = parse(text)
    dataset = config.datasets[0]
    subset = effective(SubsetOptions, dataset.subsets[0], dataset, config.general)
    assert (subset.num_repeats, subset.caption_extension) == (10, ".txt")
    options = effective(DatasetOptions, dataset, config.general)
    assert (options.batch_size, options.num_repeats, options.min_bucket_reso) == (4, 3, 256)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rnu.name='x'", "rnu: unknown key. Did you mean 'run'?"),
        ("run.nam='x'", "run.nam: unknown key. Did you mean 'name'?"),
        ("training.network_dim=4", "training.network_dim: unknown key. Did you mean 'lora.rank'?"),
        ("general.batchsize=1", "general.batchsize: unknown key. Did you mean 'batch_size'?"),
        ("datasets[0].resolutoin=1", "datasets[0].resolutoin: unknown key. Did you mean 'resolution'?"),
        (
            "datasets.0.subsets.0.repeats=1",
            "datasets[0].subsets[0].repeats: unknown key. It is called 'num_repeats' here.",
        ),
        ("noise.oversampling={kk=3}", "noise.oversampling.kk: unknown key"),
        ("lora.rank='8'", "lora.rank: found '8', expected a whole number."),
        ("lora.rank=1.5", "lora.rank: found 1.5, expected a whole number."),
        ("training.text_encoder=1", "training.text_encoder: found 1, expected true or false."),
        ("run.name=3", "run.name: found 3, expected text in quotes"),
        ("lora=3", "lora: found 3, expected a table."),
        ("datasets[0].resolution='big'", "datasets[0].resolution: found 'big', expected a whole number or"),
        ("lora.alpha=-1", "lora.alpha: found -1, expected more than 0."),
        ("optimizer.lr=nan", "optimizer.lr: found nan, expected"),
        ("datasets[0].batch_size=0", "datasets[0].batch_size: found 0, expected at least 1."),
        ("noise.oversampling=-3", "noise.oversampling: found -3, expected at least 0."),
        ("noise.oversampling='many'", "noise.oversampling: found 'many', expected a whole number."),
        ("training.precision='fp8'", "training.precision: found 'fp8', expected one of 'fp32', 'bf16' or 'fp16'."),
        ("model.family='sdxxl'", "model.family: there is no models plugin called 'sdxxl'"),
        ("model.prediction='epsilom'", "Did you mean 'epsilon'?"),
        ("run.name='../x'", "run.name: found '../x', expected a plain name"),
        ("timesteps={min=500,max=500}", "timesteps.min: 500 must be below timesteps.max = 500."),
        ("no_equals_sign", "expected key=value"),
        ("datasets[7].batch_size=1", "there is no place 'datasets[7].batch_size'"),
    ],
)
def test_what_is_wrong_is_named(override: str, expected: str) -> None:
    assert expected in problems(GOOD, override)


def test_all_problems_are_reported_at_once() -> None:
    text = GOOD + "colour = 1\n[training]\nsteps = 5\nepochs = 2\n[lora]\nrank = 0\n"
    found = problems(text, "optimizer.lr='fast'", "nois.x=1").split("\n")
    for expected in ("subsets[0].colour", "training.steps", "lora.rank", "optimizer.lr", "nois"):
        assert any(expected in line for line in found), expected
    assert len(found) == 5


def test_excluded_pair_names_both_keys() -> None:
    assert "training.steps: 5 excludes training.epochs = 2" in problems(GOOD, "training={steps=5,epochs=2}")


def test_missing_parts_are_named() -> None:
    text = problems("[run]\nname = 'x'\n")
    assert "model.base: missing" in text
    assert "datasets: missing" in text


def test_syntax_errors_have_line_and_column() -> None:
    assert "line 2, column 8" in problems("[run]\nname = x\n")


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such config file"):
        reading.read(tmp_path / "none.toml")


def test_the_name_of_the_file_names_the_run(tmp_path: Path) -> None:
    file = tmp_path / "cats.toml"
    file.write_text(GOOD.replace('name = "my-style"', ""))
    assert reading.read(file).run.name == "cats"


def test_resolved_config_reads_back_equal() -> None:
    config = parse(GOOD)
    text = reading.to_toml(config)
    again = parse(text, directory=Path("/elsewhere"))
    assert again == config
    assert tomllib.loads(text)["noise"]["oversampling"]["k"] == 64


@pytest.mark.parametrize("written", ["", "training.method='full'", "samples.width=512", "samples.sampler='ddpm'"])
def test_what_is_left_to_the_model_is_left_to_it_by_the_runs_config_too(written: str) -> None:
    """The family's own size, guidance and sampler for its samples, and no note about a key that nobody wrote."""
    config = parse(GOOD, *filter(None, [written]))
    again = parse(reading.to_toml(config), directory=Path("/elsewhere"))
    assert left_to_the_model(again.samples) == left_to_the_model(config.samples)
    assert len(left_to_the_model(config.samples)) == (3 if "samples" in written else 4)
    assert notes(again) == notes(config)


DATASET_FILE = """
[general]
caption_extension = ".cap"
[[datasets]]
resolution = 256
[[datasets.subsets]]
image_dir = "cats"
"""


def test_a_dataset_file_is_as_if_pasted(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/kohya.toml").write_text(DATASET_FILE)
    (tmp_path / "sets/other.toml").write_text(DATASET_FILE.replace("cats", "dogs"))
    run = "[model]\nbase = 'b/b.safetensors'\n[data]\nconfig = 'sets/kohya.toml'\nskip_broken = true\n"
    found = parse(run, "datasets[0].batch_size=3", directory=tmp_path)
    assert found == parse(
        run.replace("config = 'sets/kohya.toml'\n", "") + DATASET_FILE.replace("cats", "sets/cats"),
        "datasets[0].batch_size=3",
        directory=tmp_path,
    )
    assert found.datasets[0].subsets[0].image_dir == str(tmp_path / "sets/cats")
    assert parse(reading.to_toml(found), directory=Path("/elsewhere")) == found
    other = parse(run, "data.config=sets/other.toml", directory=tmp_path)
    assert other.datasets[0].subsets[0].image_dir == str(tmp_path / "sets/dogs")


def test_problems_of_a_dataset_file_name_it(tmp_path: Path) -> None:
    (tmp_path / "kohya.toml").write_text(DATASET_FILE.replace("resolution", "resolutoin"))
    with pytest.raises(UserError) as caught:
        parse("[model]\nbase = 'b'\n[data]\nconfig = 'kohya.toml'\n[training]\nsteps = 0\n", directory=tmp_path)
    told = sorted(caught.value.problems)
    assert len(told) == 2
    assert told[0].startswith("config: datasets[0].resolutoin: ") and told[0].endswith("(in kohya.toml)")
    assert told[1].startswith("config: training.steps: ") and "kohya" not in told[1]


def test_a_folder_of_folders_stands_in_for_dataset_tables() -> None:
    found = parse("[model]\nbase = 'b'\n[data]\ntrain_data_dir = 'train'\nreg_data_dir = 'reg'\n")
    assert found.data.train_data_dir == "/somewhere/train" and found.data.reg_data_dir == "/somewhere/reg"
    assert "data.reg_data_dir: has no effect" in problems(GOOD, "data.reg_data_dir=reg")


def test_a_byte_order_mark_is_no_error() -> None:
    assert parse("\ufeff" + GOOD) == parse(GOOD)


def test_every_key_of_the_schema_has_a_help_text() -> None:
    assert [path for path, field in config_keys.keys() if not field.description and "." in path] == []  # noqa: SIM118 (a function)


def test_the_json_schema_knows_noise_plugins() -> None:
    assert "oversampling" in str(reading.schema())


def test_settings_without_effect_are_told() -> None:
    def lines(*overrides: str) -> str:
        return "\n".join(notes(parse(GOOD, "noise={}", *overrides)))

    assert "[lora] has no effect" in lines("training.method='full'", "lora.rank=4")
    assert "noise.assignment: with one sample at a time" in lines(
        "noise.assignment='batch'", "datasets[0].batch_size=1"
    )
    assert "optimizer.name = 'Kron' draws from a random stream" in lines("optimizer.name=Kron")
    assert lines("noise.assignment=512", "datasets[0].batch_size=1") == ""
    assert lines("noise.assignment='batch'") == ""


def test_only_one_setting_can_pair() -> None:
    assert "excludes noise.assignment" in problems(GOOD, "noise.assignment='batch'")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[datasets]\nresolution = 64\n",
            "datasets: found one table, expected a list of tables: write [[datasets]], in",
        ),
        (
            "[[datasets]]\n[datasets.subsets]\nx = 1\n",
            "datasets[0].subsets: found one table, expected a list of tables",
        ),
    ],
)
def test_one_pair_of_brackets_instead_of_two_is_told_once(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError) as told:
        reading.parse(f'[model]\nbase = "b"\n{text}', directory=tmp_path, source="x")
    assert [problem.startswith(f"x: {expected}") for problem in told.value.problems] == [True]


def test_a_config_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "my.toml").touch()
    for name, expected in (
        ("my.tml", "no such config file. Did you mean 'my.toml', which is there?"),
        ("", "is a folder"),
    ):
        with pytest.raises(UserError, match=expected):
            reading.read(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("lora.args={factr=2}", "lora.args.factr: lora.method = 'lora' has no settings of its own"),
        (
            "lora={method='lokr',args={factr=2}}",
            "lora.args.factr: unknown; lokr has factor, decompose_both, full_matrix",
        ),
        ("lora={method='lokr',args={factor=0}}", "lora.args.factor: found 0; expected -1, or at least 1"),
        (
            "lora.method='oft'",
            "found 'oft', expected one of lora, dora, loha, lokr; OFT is read, merged and drawn with",
        ),
        ("lora.exclude=['(']", "a regular expression"),
    ],
)
def test_what_adapters_cannot_be_is_told(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "run.toml").write_text(GOOD)
    with pytest.raises(UserError) as error:
        reading.read(tmp_path / "run.toml", [line])
    assert told in " ".join(error.value.problems)
