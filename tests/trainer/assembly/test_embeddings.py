"""Whole runs in which new words learn: alone, beside a LoRA, for one text encoder and for SDXL's two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.tiny import tiny_sdxl
from tests.trainer.runs import make_project, train, training
from trainer.adapters import embeddings, injection, inspection, lora_file
from trainer.assembly.run import PreparedRun, run_dir_of
from trainer.assembly.split_states import unsplittable
from trainer.batch import EMBEDDINGS, NewWord
from trainer.commands import sampling
from trainer.config import reading
from trainer.errors import UserError
from trainer.protocols import Family
from trainer.registry import find

WORD = ("embeddings.words={ohwx='a'}", "embeddings.lr=0.01", "general.caption_prefix='ohwx'")
ALONE = (*WORD, "training.unet=false")
PIVOTAL = (*WORD, "embeddings.vectors={ohwx=3}")
CAPTIONS = ["a photo of ohwx, cat", "no new word"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words-xl")
    file = make_project(folder)
    tiny_sdxl(folder / "xl")
    file.write_text(file.read_text().replace('base = "base"', 'base = "xl"'))
    return file


@pytest.fixture(scope="module")
def pivotal(project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedRun, Path]:
    return _trained(project, tmp_path_factory.mktemp("pivotal"), PIVOTAL)


@pytest.fixture(scope="module")
def pivotal_xl(xl: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedRun, Path]:
    return _trained(xl, tmp_path_factory.mktemp("pivotal-xl"), PIVOTAL)


def _trained(file: Path, folder: Path, overrides: tuple[str, ...]) -> tuple[PreparedRun, Path]:
    given = (*overrides, f"run.output_dir='{folder}'")
    found = train(file, *given)
    return found, run_dir_of(reading.read(file, given)).path


def state(found: PreparedRun) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": tensor.detach().clone()
        for part, module in found.family.parts.items()
        for name, tensor in module.state_dict().items()
    }


def test_only_the_new_rows_learn(project: Path, tmp_path: Path) -> None:
    """Weight decay, averages and the length have no part in any other number of the base."""
    more = ("optimizer.args={weight_decay=0.5}", "ema.decay=0.5", "embeddings.keep_norm=true")
    found = training(project, *ALONE, *more, f"run.output_dir='{tmp_path}'")
    before = state(found)
    found.run()
    changed = {name: tensor for name, tensor in state(found).items() if not torch.equal(tensor, before[name])}
    assert [*changed] == [f"{EMBEDDINGS}.text_encoder.<ohwx>"]
    usual = before["text_encoder.embeddings.token_embedding.weight"].norm(dim=1).median()
    (vector,) = changed.values()
    assert torch.allclose(vector.norm(dim=1), usual)
    saved = load_file(tmp_path / "run" / "run-embeddings" / "ohwx.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in saved.items()} == {"emb_params": (1, 64)}
    assert not (tmp_path / "run" / "run.safetensors").exists()  # nothing else trained


def test_frozen_words_begin_as_the_vectors_that_they_are_made_of(project: Path) -> None:
    found = training(project, *PIVOTAL)
    own = found.family.parts["text_encoder"].get_input_embeddings().weight
    row = own[found.family.components.tokenizers["tokenizer"]("a", add_special_tokens=False).input_ids[0]]
    (vectors,) = found.family.parts[EMBEDDINGS].parameters()
    assert torch.equal(vectors.detach(), row.detach().expand(3, 64))


@pytest.mark.parametrize("kind", ["pivotal", "pivotal_xl"])
def test_both_files_hold_what_learned(kind: str, request: pytest.FixtureRequest) -> None:
    found, folder = request.getfixturevalue(kind)
    live = embeddings.of_family(found.family)["ohwx"]
    keys = {"pivotal": {"emb_params"}, "pivotal_xl": {"clip_l", "clip_g"}}[kind]
    assert live.keys() == keys
    assert embeddings.equal(embeddings.read(folder / "run-embeddings" / "ohwx.safetensors"), live)
    file = lora_file.read(folder / "run.safetensors")
    assert embeddings.equal(file.embeddings["ohwx"], live)
    assert file.modules.keys() == injection.weights(found.family).keys()
    names = {n for n in load_file(folder / "run.safetensors") if n.startswith("bundle_emb")}
    inside = {"emb_params": "string_to_param.*"}
    assert names == {f"bundle_emb.ohwx.{inside.get(key, key)}" for key in keys}
    assert file.metadata["modelspec.trigger_phrase"] == "ohwx"
    told = inspection.inspect(folder / "run.safetensors")
    assert told.kind == "lora" and told.embeddings[0].startswith("ohwx: 3 vectors of 64")
    alone = inspection.inspect(folder / "run-embeddings" / "ohwx.safetensors")
    assert alone.kind == "embedding" and alone.embeddings == told.embeddings and alone.family == told.family


def test_diffusers_reads_the_file_and_gives_equal_states(project: Path, pivotal: tuple[PreparedRun, Path]) -> None:
    found, folder = pivotal
    with torch.no_grad():
        ours = found.family.encode_text(CAPTIONS)["hidden"]
        pipeline = StableDiffusionPipeline.from_pretrained(project.parent / "base", safety_checker=None)
        pipeline.load_textual_inversion(str(folder / "run-embeddings" / "ohwx.safetensors"), token="ohwx")
        theirs = torch.cat([pipeline.encode_prompt(text, "cpu", 1, False)[0] for text in CAPTIONS])
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours[0], ours[1])


def test_diffusers_gives_equal_states_of_sdxl(xl: Path, pivotal_xl: tuple[PreparedRun, Path]) -> None:
    """The pooled states too: they are those of the end mark, which is not the greatest number any more."""
    found, folder = pivotal_xl
    file = load_file(folder / "run-embeddings" / "ohwx.safetensors")
    pipeline = StableDiffusionXLPipeline.from_pretrained(xl.parent / "xl")
    for key, tokenizer, encoder in (
        ("clip_l", pipeline.tokenizer, pipeline.text_encoder),
        ("clip_g", pipeline.tokenizer_2, pipeline.text_encoder_2),
    ):
        pipeline.load_textual_inversion(file[key], token="ohwx", tokenizer=tokenizer, text_encoder=encoder)
    with torch.no_grad():
        ours = found.family.encode_text(CAPTIONS[:1])
        hidden, _, pooled, _ = pipeline.encode_prompt(CAPTIONS[0], device="cpu", do_classifier_free_guidance=False)
    assert torch.equal(ours["hidden"], hidden)
    assert torch.equal(ours["pooled"], pooled)


def test_pooled_states_of_old_configs_are_those_of_the_end_mark(xl: Path) -> None:
    """eos_token_id = 2 takes the greatest number for the end: a new word must not be it."""
    base = str(xl.parent / "xl")
    states = []
    for end in (None, 2):
        family = find("models", "sdxl").load(base)
        if end:
            family.parts["text_encoder_2"].text_model.eos_token_id = end
        family.learn_words([NewWord("ohwx", "a")])
        states.append(family.encode_text(CAPTIONS[:1])["pooled"])
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("settings", "text", "same"),
    [
        ({}, "a OHWX-cat", "a a-cat"),
        ({}, "ohwx_1 ohwxy", "ohwx_1 ohwxy"),  # other words
        ({"weighted_captions": True}, "(ohwx:1.3) cat", "(a:1.3) cat"),
        ({"max_tokens": 150}, f"{'b ' * 74}ohwx c", f"{'b ' * 74}a c"),  # the last of a chunk
        ({"max_tokens": 150}, f"{'b ' * 75}ohwx c", f"{'b ' * 75}a c"),  # the first of the next
    ],
)
def test_a_new_word_is_read_as_what_it_begins_as(
    project: Path, settings: dict[str, object], text: str, same: str
) -> None:
    """Whatever its case and wherever it stands; it has equal vectors until it learns."""
    family = find("models", "sd").load(str(project.parent / "base"), **settings)
    family.learn_words([NewWord("ohwx", "a")])
    assert torch.equal(family.encode_text([text])["hidden"], family.encode_text([same])["hidden"])


def test_many_vectors_are_as_many_tokens(project: Path) -> None:
    kind = find("models", "sd")
    family = kind.load(str(project.parent / "base"))
    family.learn_words([NewWord("ohwx", "a b c"), NewWord("ohwx-2", "d", 2)])
    assert torch.equal(*(family.encode_text([t])["hidden"] for t in ("x ohwx, ohwx-2 y", "x a b c, d d y")))
    counted = kind.tokenizer_of(str(project.parent / "base"), words=[NewWord("ohwx", "a b c")])
    assert len(counted("x ohwx y", add_special_tokens=False).input_ids) == 5


def test_cached_states_are_impossible_while_words_learn(project: Path) -> None:
    found = training(project, *ALONE, "data.cache_text=true")
    assert found.loop.gradients.batch(0).text is None


def test_averages_are_what_is_saved(project: Path, tmp_path: Path) -> None:
    found = train(project, *ALONE, "ema.decay=0.9", f"run.output_dir='{tmp_path}'")
    saved = load_file(tmp_path / "run" / "run-embeddings" / "ohwx.safetensors")["emb_params"]
    assert not torch.equal(saved, embeddings.of_family(found.family)["ohwx"]["emb_params"])
    with found.loop.end.averages.applied():
        assert torch.equal(saved, embeddings.of_family(found.family)["ohwx"]["emb_params"])


def test_words_stop_learning_when_they_shall(project: Path, tmp_path: Path) -> None:
    found = [
        train(project, *ALONE, f"training.steps={steps}", f"run.output_dir='{tmp_path / name}'", *more)
        for name, steps, more in (("two", 2, ()), ("until", 4, ("embeddings.until=2",)), ("four", 4, ()))
    ]
    two, until, four = (embeddings.of_family(one.family)["ohwx"]["emb_params"] for one in found)
    assert torch.equal(two, until) and not torch.equal(two, four)


def test_a_lora_goes_on_with_the_words_that_it_holds(
    project: Path, pivotal: tuple[PreparedRun, Path], tmp_path: Path
) -> None:
    found, folder = pivotal
    start = f"lora.init_from='{folder / 'run.safetensors'}'"
    again = training(project, *PIVOTAL, start, f"run.output_dir='{tmp_path}'")
    words = [embeddings.of_family(one.family)["ohwx"] for one in (again, found)]
    assert embeddings.equal(*words)


@pytest.mark.parametrize("source", ["lora", "file"])
def test_samples_know_the_word(
    project: Path, pivotal: tuple[PreparedRun, Path], tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = pivotal
    lora = folder / "run.safetensors" if source == "lora" else None
    files = [] if lora else [folder / "run-embeddings" / "ohwx.safetensors"]
    given = ["samples.steps=1", "samples.width=32", "samples.height=32"]
    drawn = [
        sampling.sample(
            project, given, lora, [text], [1.0], tmp_path / name, parts=tmp_path / f"{name}-p", embeddings=f
        )
        for name, text, f in (("a.png", "ohwx", files), ("b.png", "ohwx", files), ("c.png", "xwho", files))
    ]
    first, again, other = ((tmp_path / f"{file.name}-p" / "0-0.png").read_bytes() for file in drawn)
    assert first == again != other
    assert "embedding ohwx: 3 vectors of 64 numbers" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("embeddings.words={a='b'}",), "a word of this base's vocabulary already"),
        (("embeddings.words={ohwx='dog'}", "embeddings.vectors={ohwx=2}"), "'dog' are 3 tokens"),
        (("embeddings.words={'a/b'='dog'}",), "expected one word of letters, numbers, _ and -"),
        (("embeddings.words={ohwx=''}",), "name a word that its vectors begin as"),
        (("embeddings.words={ohwx='a',OHWX='b'}",), "is there twice"),
        (("embeddings.vectors={ohwx=2}",), "there is no such word in embeddings.words"),
        (("embeddings.words={ohwx='a'}", "training.method=full"), "train alone or with a LoRA"),
    ],
)
def test_what_cannot_be_is_told(project: Path, overrides: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        training(project, *overrides)


def test_states_that_are_split_between_processes_are_refused_by_name(project: Path) -> None:
    assert "embeddings.words: leave it out" in unsplittable(reading.read(project, ALONE))


def test_families_without_clip_are_refused_by_name(project: Path) -> None:
    class Other:
        name, embedding_keys = "anima", {}

    from trainer.assembly.embeddings import teach

    with pytest.raises(UserError, match="'anima' has no CLIP text encoder"):
        teach(reading.read(project, ALONE), Other())  # type: ignore[arg-type]


def test_an_embedding_of_another_base_is_refused(
    project: Path, pivotal_xl: tuple[PreparedRun, Path], tmp_path: Path
) -> None:
    file = pivotal_xl[1] / "run-embeddings" / "ohwx.safetensors"
    with pytest.raises(UserError, match=r"for this base it needs\s+emb_params"):
        sampling.sample(project, [], None, ["ohwx"], [1.0], tmp_path / "a.png", embeddings=[file])
    wide = tmp_path / "ohwx.safetensors"
    save_file({"emb_params": torch.zeros(1, 65)}, wide)
    with pytest.raises(UserError, match="text_encoder has 64 numbers a token, found 65"):
        sampling.sample(project, [], None, ["ohwx"], [1.0], tmp_path / "a.png", embeddings=[wide])


def test_others_files_are_read(tmp_path: Path) -> None:
    one = torch.randn(2, 64)
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": one}, "name": "x"}, tmp_path / "a1111.pt")
    save_file({"<cat>": one[0]}, tmp_path / "diffusers.safetensors")
    save_file({"emp_params": one}, tmp_path / "onetrainer.safetensors")
    family: Family = type("F", (), {"name": "sd", "embedding_keys": find("models", "sd").embedding_keys})()  # type: ignore[assignment]
    for name, rows in (("a1111.pt", 2), ("diffusers.safetensors", 1), ("onetrainer.safetensors", 2)):
        word = embeddings.for_family(family, "x", embeddings.read(tmp_path / name), name)
        assert torch.equal(word.given["text_encoder"], one[:rows])


def test_words_that_no_caption_holds_are_told(project: Path) -> None:
    from trainer.assembly.embeddings import unseen

    found = training(project, "embeddings.words={ohwx='a',cat='b'}")
    config = reading.read(project, ["embeddings.words={ohwx='a',cat='b'}"])
    (line,) = unseen(config, found.loader.dataset)
    assert "no caption that trains holds 'ohwx'" in line


def test_a_file_with_broken_vectors_is_not_written(pivotal: tuple[PreparedRun, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="NaN"):
        embeddings.write(tmp_path / "x", {"ohwx": {"emb_params": torch.full((1, 4), torch.nan)}}, {})
    assert not (tmp_path / "x").exists()
