"""Files of prompts in kohya's and LECO's forms, and what is wrong with pairs of prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import reading
from trainer.config.schema.whole import Config
from trainer.errors import UserError
from trainer.files import ordinary

PAIRS = """
guidance_scale = 1.5
resolution = 768
[[prompts]]
target = "van gogh"
[[prompts]]
target = "a house"
positive = "a castle"
unconditional = "a hut"
neutral = "a house"
action = "enhance"
guidance_scale = 2.0
resolution = [512, 640]
batch_size = 2
multiplier = -1.5
weight = 0.5
"""
LECO = """
- target: "van gogh" # what word for erasing the positive concept from
  positive: "van gogh"
  unconditional: ""
  neutral: ""
  action: "erase"
  guidance_scale: 1.0
  resolution: 512
  dynamic_resolution: false
  batch_size: 2
"""
SLIDER = """
[slider]
guidance_scale = 2
resolutions = [512, [640, 512]]
neutral_prompt_file = "neutral.txt"
[[slider.targets]]
target_class = "person"
positive = "old person"
negative = "young person"
"""


def read(folder: Path, name: str, text: str, *overrides: str) -> Config:
    (folder / name).write_text(text)
    config = f'[model]\nbase = "base"\n[slider]\nprompts_file = "{name}"\n'
    return reading.parse(config, overrides, directory=folder)


def refused(folder: Path, name: str, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        read(folder, name, text, *overrides)
    return "\n".join(error.value.problems)


def test_kohyas_pairs(tmp_path: Path) -> None:
    """sd-scripts' defaults, keys above the tables, and its sizes with the height first."""
    first, second = read(tmp_path, "p.toml", PAIRS).slider.pairs
    assert (first.concept, first.unconditional, first.start, first.action) == ("van gogh", "", "", "erase")
    assert (first.guidance, first.size, first.batch_size, first.multiplier) == (-1.5, (768, 768), 1, 1.0)
    assert (second.concept, second.unconditional, second.start) == ("a castle", "a hut", "a house")
    assert (second.guidance, second.size, second.batch_size) == (2.0, (640, 512), 2)
    assert (second.multiplier, second.weight) == (-1.5, 0.5)


def test_lecos_yaml(tmp_path: Path) -> None:
    (pair,) = read(tmp_path, "p.yaml", LECO).slider.pairs
    assert (pair.target, pair.concept, pair.start, pair.guidance, pair.batch_size) == (
        "van gogh",
        "van gogh",
        "",
        -1.0,
        2,
    )


def test_sliders_with_sizes_and_a_file_of_neutral_prompts(tmp_path: Path) -> None:
    (tmp_path / "neutral.txt").write_text("a photo\n\n a drawing \n")
    found = read(tmp_path, "p.toml", SLIDER).slider
    assert [(t.resolution, t.neutrals, t.guidance_scale) for t in found.targets] == [
        (512, ["a photo", "a drawing"], 2.0),
        ((512, 640), ["a photo", "a drawing"], 2.0),
    ]
    assert len(found.pairs) == 8


def test_what_was_read_is_written_out_and_read_again(tmp_path: Path) -> None:
    """The run's folder holds the prompts themselves: its config needs no other file."""
    config = read(tmp_path, "p.toml", PAIRS)
    again = reading.parse(reading.to_toml(config), directory=tmp_path)
    assert again.slider.pairs == config.slider.pairs
    assert reading.to_dict(again) == reading.to_dict(config)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("p.toml", "[[prompts]", "slider.prompts_file: 'p.toml' is not valid"),
        ("p.yaml", "- a: [", "slider.prompts_file: 'p.yaml' is not valid"),
        ("p.yaml", "just words", "must hold a list of prompts"),
        ("p.yaml", "- just words", "must hold a list of tables"),
        ("p.yaml", "[]", "holds no prompts"),
        ("p.toml", "targets = []", "holds no prompts"),
        ("p.toml", "target_clas = 1", "neither [[prompts]] nor [[targets]]"),
        ("p.toml", "guidence = 1\n[[prompts]]\ntarget='a'", "holds 'guidence'"),
        ("p.toml", "[[prompts]]\ntarget='a'\nactoin='erase'", "slider.prompts[0].actoin: unknown key"),
        ("p.toml", "[[prompts]]\ntarget='a'\naction='delete'", "slider.prompts[0].action: found 'delete'"),
        ("p.toml", "[[prompts]]\npositive='a'", "slider.prompts[0].target: missing"),
        ("p.toml", "[[prompts]]\ntarget=''", "slider.prompts[0]: it teaches nothing"),
        ("p.toml", "[[prompts]]\ntarget='a'\nguidance_scale=0\nneutral='a'", "it teaches nothing"),
        ("p.toml", "[[prompts]]\ntarget='a'\nmultiplier=0", "multiplier: 0 switches the LoRA off"),
        ("p.toml", "[[prompts]]\ntarget='a'\nresolution=4", "slider.prompts[0].resolution: found 4"),
        ("p.toml", "[[prompts]]\ntarget='a'\nresolution=[64,128]\ndynamic_resolution=true", "it is for one number"),
        ("p.toml", "[[targets]]\ntarget_class='a'", "slider.targets[0]: give a positive, a negative, or both"),
        ("p.toml", "[[targets]]\ntarget_class='a'\npositive='b'\nnegative='b'", "are the same, 'b'"),
        ("p.toml", "[[targets]]\ntarget_class='a'\npositive='b'\nprompt_file='x.txt'", "names prompt_file = 'x.txt'"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, name: str, text: str, expected: str) -> None:
    found = refused(tmp_path, name, text)
    assert expected in found and name in found


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("datasets=[{subsets=[{image_dir='a'}]}]", "datasets: training by the prompts of [slider] has no images"),
        ("data.train_data_dir='a'", "data.train_data_dir: training by the prompts"),
        ("validation.split=0.1", "validation.split: training by the prompts"),
        ("preservation.words={a='b'}", "preservation: training by the prompts"),
        ("noise.oversampling=8", "noise.oversampling: it pairs noise with images"),
        ("training.method='full'", "training.method: 'full', but [slider] asks the base"),
        ("training.text_encoder=true", "training.text_encoder: true, but [slider]"),
        ("embeddings.words={ohwx='cat'}", "embeddings.words: words that learn change what prompts say"),
        ("slider.prompts=[{target='b'}]", "slider.prompts: stands in this file and in slider.prompts_file"),
    ],
)
def test_what_prompts_exclude(tmp_path: Path, override: str, expected: str) -> None:
    config = '[model]\nbase = "base"\n[slider]\nprompts_file = "p.toml"\n'
    (tmp_path / "p.toml").write_text(PAIRS)
    if override.startswith("slider."):
        config, override = config + "[[slider.prompts]]\ntarget = 'b'\n", "run.seed=1"
    with pytest.raises(UserError) as error:
        reading.parse(config, [override], directory=tmp_path)
    assert expected in "\n".join(error.value.problems)


def test_a_slider_without_prompts_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="slider: there are no prompts"):
        reading.parse('[model]\nbase = "base"\n[slider]\ndenoising_steps = 20\n', directory=tmp_path)


def test_what_is_no_text_is_refused_instead_of_read(tmp_path: Path) -> None:
    with (tmp_path / "p.yaml").open("wb") as file:
        file.truncate(ordinary.MOST + 1)
    config = '[model]\nbase = "base"\n[slider]\nprompts_file = "p.yaml"\n'
    with pytest.raises(UserError, match=r"slider.prompts_file: 'p.yaml' cannot be read: it has 268 MB"):
        reading.parse(config, directory=tmp_path)
