"""Every known kind of file becomes a valid config that trains, and each of its keys is told once."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.trainer.config.importing.cases import CASES, Case
from tests.trainer.runs import train
from trainer.commands.importing import import_file
from trainer.config import reading
from trainer.config.foreign.outcome import KINDS
from trainer.config.importing import report
from trainer.config.importing.run import Imported, imported
from trainer.errors import UserError
from trainer.journal.run_dir import RunDir


def of(case: Case, folder: Path) -> Imported:
    file = case.write(folder)
    return imported(file, folder / "mine.toml", without=case.without, script=case.script)


@pytest.mark.parametrize("name", CASES)
def test_it_trains(name: str, tmp_path: Path) -> None:
    found = of(CASES[name], tmp_path)
    assert found.left == (("model.base", "datasets") if name == "finished LoRA" else ())
    (tmp_path / "mine.toml").write_text(found.text, encoding="utf-8")
    short = ("training.epochs=0", "training.steps=2", "schedule.warmup=0", "samples.every=0", "save.every=0")
    small = ("run.device=cpu", "training.precision=fp32", "training.preflight=false", "logging.tensorboard=false")
    train(tmp_path / "mine.toml", *short, *small, "run.name=run", f"run.output_dir={tmp_path / 'output'}")
    steps = [event for event in RunDir(tmp_path / "output" / "run").events() if event["event"] == "step"]
    assert len(steps) == 2 and all(math.isfinite(step["loss"]) for step in steps)


@pytest.mark.parametrize("name", CASES)
def test_the_four_lists_hold_every_key_once(name: str, tmp_path: Path) -> None:
    translation = of(CASES[name], tmp_path).translation
    counts = {kind: len(report.of_kind(translation, kind)) for kind in KINDS}
    assert sum(counts.values()) == len(translation.entries) == len(translation.source.keys)
    assert [entry.name for entry in translation.entries] == list(translation.source.keys)
    assert counts["carried"] > 5


@pytest.mark.parametrize(
    ("name", "vectors", "unet"),
    [
        ("sd-scripts, a new word", 2, False),
        ("OneTrainer, a new word beside a LoRA", 3, True),
        ("OneTrainer, a new word alone", 1, False),
        ("ai-toolkit, a new word beside a LoRA", 2, True),
    ],
)
def test_new_words_are_carried_over(name: str, vectors: int, unet: bool, tmp_path: Path) -> None:
    config = reading.parse(of(CASES[name], tmp_path).text, directory=tmp_path)
    assert config.embeddings.words == {"ohwx": "a"} and config.embeddings.vectors == {"ohwx": vectors}
    assert config.training.method == "lora" and config.training.unet is unet
    beside = name.startswith("OneTrainer") and unet
    assert (config.embeddings.keep_norm, config.embeddings.bundle) == (beside, not beside)
    assert config.embeddings.lr == (0.01 if unet else None)


def written(folder: Path, text: str, **options: object) -> Imported:
    (folder / "theirs.toml").write_text(text, encoding="utf-8")
    return imported(folder / "theirs.toml", folder / "ours.toml", **options)  # type: ignore[arg-type]


LEAST = 'pretrained_model_name_or_path = "base"\nnetwork_module = "networks.lora"\ntrain_data_dir = "train"\n'


def test_what_the_file_leaves_out_is_what_the_other_program_does(tmp_path: Path) -> None:
    config = reading.parse(written(tmp_path, LEAST).text, directory=tmp_path)
    assert (config.lora.rank, config.lora.alpha) == (4, 1)
    assert config.training.text_encoder and config.optimizer.lr == config.optimizer.text_encoder_lr == 2e-6
    assert config.general.caption_extension == ".caption"
    assert (config.data.latent_sampling, config.save.dtype) == ("fresh", "fp32")
    assert (config.model.prediction, config.model.zero_terminal_snr) == ("epsilon", "off")
    assert config.training.steps == 1600 and config.optimizer.name == "adamw"


def test_a_key_without_counterpart_stops_the_import_unless_it_is_named(tmp_path: Path) -> None:
    text = LEAST + 'base_weights = ["a.safetensors"]\nresume = "state"\nhuggingface_repo_id = "me/mine"\n'
    with pytest.raises(UserError) as error:
        written(tmp_path, text)
    assert [line.partition(" ")[0] for line in error.value.problems] == ["base_weights", "resume", "To"]
    with pytest.raises(UserError, match=r"^resume = 'state'"):
        written(tmp_path, text, without=["base_weights"])
    for without in (["base_weights", "resume"], ["all"]):
        assert written(tmp_path, text, without=without).text
    with pytest.raises(UserError, match="--without reusme: the file has no such key"):
        written(tmp_path, text, without=["all", "reusme"])


def test_an_unknown_key_is_named_with_its_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"netwrok_dim = 8: sd-scripts has no such key; did you mean network_dim\?"):
        written(tmp_path, LEAST + "netwrok_dim = 8\n")


def test_a_value_that_nobody_could_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="network_dim: found 'many', expected a number"):
        written(tmp_path, LEAST + 'network_dim = "many"\n')


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    text = LEAST + 'huggingface_token = "hf_abc"\nwandb_api_key = "key_abc"\n'
    assert "_abc" not in written(tmp_path, text).text


def test_keys_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use_8bit_adam: found True, expected false beside optimizer_type = Lion"):
        written(tmp_path, LEAST + 'optimizer_type = "Lion"\nuse_8bit_adam = true\n')


def test_each_line_names_the_key_that_it_comes_from(tmp_path: Path) -> None:
    text = written(tmp_path, LEAST + "network_dim = 32\nmin_snr_gamma = 5\n").text
    assert "rank = 32  # network_dim\n" in text
    assert 'weighting = "min_snr"  # min_snr_gamma\ngamma = 5.0  # min_snr_gamma\n' in text
    assert "text_encoder = true  # network_train_unet_only, left out: what sd-scripts does then\n" in text


def test_paths_mean_the_same_beside_the_result(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "theirs.toml"
    here = LEAST.replace('"base"', '"owner/name"') + 'vae = "C:\\\\vae.safetensors"\noutput_dir = "/out"\n'
    file.write_text(here, encoding="utf-8")
    beside = reading.parse(imported(file, file.with_name("ours.toml")).text, directory=file.parent)
    elsewhere = reading.parse(imported(file, tmp_path / "ours.toml").text, directory=tmp_path)
    assert beside.data.train_data_dir == elsewhere.data.train_data_dir == str(file.parent / "train")
    assert beside.model.base == elsewhere.model.base == "owner/name"
    assert 'vae = "C:\\\\vae.safetensors"' in imported(file, tmp_path / "ours.toml").text
    assert 'train_data_dir = "train"' in imported(file, file.with_name("ours.toml")).text


def test_what_the_file_does_not_say_is_left_to_fill_in(tmp_path: Path) -> None:
    found = written(tmp_path, 'network_module = "networks.lora"\n')
    assert found.left == ("model.base", "datasets")
    assert "To fill in, since it does not say them in full: model.base, datasets." in found.text


def test_the_command_writes_beside_the_file_and_never_over_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "theirs.toml"
    file.write_text(LEAST, encoding="utf-8")
    target = import_file(file, None, without=[], script="", overwrite=False)
    assert target == tmp_path / "theirs-imported.toml" and reading.read(target).lora.rank == 4
    assert "3 keys: 2 carried over, 1 in another form here" in capsys.readouterr().out
    target.write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        import_file(file, None, without=[], script="", overwrite=False)
    assert target.read_text() == "mine"
    import_file(file, None, without=[], script="", overwrite=True)
    assert reading.read(target).lora.rank == 4


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.toml", None, "cannot be read"),
        ("binary.bin", b"\xff\xfe\x00\x81", "neither a text nor"),
        ("notes.txt", b"some words about a cat", "not understood"),
        ("list.json", b"[1, 2]", "of no trainer that is known"),
        ("two.sh", b"python train_network.py --v2\npython train_network.py --v2\n", "2 training commands"),
        ("unset.sh", b"python train_network.py --network_dim=$DIM\n", "line 1: DIM is not set"),
        ("flux.sh", b"python flux_train_network.py --network_dim=4\n", "it trains what is not here"),
        ("full.toml", b'learning_rate = 1e-5\npretrained_model_name_or_path = "x"\n', "say which with --script"),
    ],
)
def test_what_is_not_understood(tmp_path: Path, name: str, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=expected):
        imported(tmp_path / name, tmp_path / "ours.toml")


def test_what_others_keep_of_the_base_is_kept_here(tmp_path: Path) -> None:
    found = reading.parse(of(CASES["ai-toolkit"], tmp_path / "a").text, directory=tmp_path / "a")
    assert (found.preservation.words, found.preservation.weight) == ({"ohwx": "cat"}, 0.5)
    job = {"name": "a", "process": [{"type": "sd_trainer", "model": {"name_or_path": "b"}, "network": {"type": "lora"},
           "train": {"blank_prompt_preservation": True, "blank_prompt_preservation_multiplier": 0.3},
           "datasets": [{"folder_path": "photos"}]}]}  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps({"job": "extension", "config": job}))
    found = reading.parse(imported(tmp_path / "job.json", tmp_path / "c.toml").text, directory=tmp_path)
    assert (found.preservation.blank, found.preservation.weight) == (True, 0.3)
    found = reading.parse(of(CASES["OneTrainer"], tmp_path / "b").text, directory=tmp_path / "b")
    assert [table.subsets[0].prior_prediction for table in found.datasets] == [False, True]
