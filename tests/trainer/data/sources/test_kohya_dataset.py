"""A dataset file with every option of sd-scripts' documentation, against expectations worked out by hand.

The numbers in the comments follow from sd-scripts' rules as its documentation and behaviour state them.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.trainer.data.conftest import Folder, picture
from trainer.config.dataset_file import included
from trainer.config.schema.base import extra
from trainer.config.schema.data import DatasetSettings, DataSettings, GeneralSettings, SubsetSettings
from trainer.data.captions.pipeline import Moment
from trainer.data.dataset import Dataset, ImageItem
from trainer.data.order.plan import Plan, Presentation
from trainer.data.order.sample import TrainingSample
from trainer.data.pictures import views
from trainer.data.sources.scan import scan

KOHYA = """
[general]
enable_bucket = true
shuffle_caption = true
caption_extension = ".txt"
keep_tokens = 1
color_aug = false
flip_aug = false

[[datasets]]
resolution = 512
batch_size = 4
keep_tokens = 2
min_bucket_reso = 320
max_bucket_reso = 768
bucket_reso_steps = 64

  [[datasets.subsets]]
  image_dir = "hoge"
  num_repeats = 3
  class_tokens = "hoge girl"
  caption_prefix = "masterpiece,"
  caption_suffix = ", from side"
  caption_separator = ","
  caption_tag_dropout_rate = 0.5
  face_crop_aug_range = [2.0, 2.0]

  [[datasets.subsets]]
  image_dir = "fuga"
  caption_extension = ".caption"
  keep_tokens_separator = "|||"
  secondary_separator = ";;;"
  enable_wildcard = true
  flip_aug = true
  random_crop = true

  [[datasets.subsets]]
  is_reg = true
  image_dir = "reg"
  class_tokens = "human"
  keep_tokens = 1

[[datasets]]
resolution = [768, 768]
batch_size = 2
bucket_no_upscale = true
network_multiplier = 1.0

  [[datasets.subsets]]
  image_dir = "piyo"
  metadata_file = "piyo/piyo_md.json"
  shuffle_caption = false
  token_warmup_min = 1
  token_warmup_step = 4
  caption_dropout_rate = 0.05
  caption_dropout_every_n_epochs = 5
  alpha_mask = true
  resize_interpolation = "lanczos"
  custom_attributes = { "note" = "free" }
  cache_info = false
"""


@pytest.fixture
def data(folder: Folder, tmp_path: Path) -> Dataset:
    folder("hoge", {"a_300_200_80_100.png": (600, 400), "b.png": (400, 1200)}, {"a.txt": "1girl, hair, eyes, dress"})
    folder("fuga", {"c.png": (512, 512)})
    (tmp_path / "fuga/c.caption").write_text("x, y|||red;;;blue, {p|q}|||end\nsecond\n", encoding="utf-8")
    folder("reg", {f"r{n}.png": (512, 512) for n in range(20)})
    piyo = folder("piyo", {"d.png": (500, 700)})
    rgba = picture(900, 900).convert("RGBA")
    rgba.putalpha(Image.fromarray(np.full((900, 900), 255, np.uint8)))
    rgba.save(piyo / "e.png")
    metadata = {"d": {"caption": "a photo", "tags": "t1, t2, t3, t4"}, str(piyo / "e.png"): {"tags": "only, tags"}}
    (piyo / "piyo_md.json").write_text(json.dumps(metadata))
    (tmp_path / "kohya.toml").write_text(KOHYA)
    merged, _, problems = included({"data": {"config": "kohya.toml"}}, tmp_path)
    assert problems == [] and set(merged) == {"data", "general", "datasets"}
    return scan(
        [DatasetSettings.model_validate(table) for table in merged["datasets"]],
        GeneralSettings.model_validate(merged["general"]),
        DataSettings(cache_latents=False, prior_loss_weight=0.8),
        config_dir=tmp_path,
    )


def item(data: Dataset, start: str) -> tuple[int, ImageItem]:
    return next((i, item) for i, item in enumerate(data.items) if Path(item.path).name.startswith(start))


def captions(data: Dataset, start: str, epochs: int = 60, step: int = 10**6) -> list[str]:
    index, one = item(data, start)
    return [
        TrainingSample(0, epoch, Presentation(index, 0)).caption(one, Moment(epoch, step, 10**6))
        for epoch in range(epochs)
    ]


def test_every_option_of_the_schema_is_accepted() -> None:
    written = tomllib.loads(KOHYA)
    used: set[str] = set(written["general"])
    for table in written["datasets"]:
        used |= set(table) | {key for subset in table["subsets"] for key in subset}
    ours = {"trigger", "tag_weights", "loss_weight", "mask_outside", "prior_prediction", "inpaint_mask"}
    elsewhere = {"conditioning_data_dir", "validation_split", "validation_seed"}  # tested with what they are for
    known = SubsetSettings.model_fields.keys() | DatasetSettings.model_fields.keys()
    assert known - used - ours - elsewhere == set()
    later = [k for k, f in {**DatasetSettings.model_fields, **SubsetSettings.model_fields}.items() if _later(f)]
    assert set(later) <= elsewhere


def _later(field: Any) -> bool:
    return bool(extra(field).get("later"))


def test_sizes(data: Dataset) -> None:
    # 512 * 512, sides 320 to 768: 320x768 (819 -> 768), 384x640, 448x576, 512x512 and their turns.
    # 600 x 400 = 1.5: nearest of 640/384 = 1.667 (0.167) and 576/448 = 1.286 (0.214).
    assert item(data, "a_")[1].target == (640, 384)
    # 400 x 1200 = 0.333: 320/768 = 0.417 is the narrowest.
    assert item(data, "b.")[1].target == (320, 768)
    assert item(data, "c.")[1].target == (512, 512)
    # No upscale in an area of 768 * 768 = 589,824: 500 x 700 = 350,000 stays and is cut to 448 x 640.
    d = item(data, "d.")[1]
    assert (d.resized, d.target, d.corner) == ((500, 700), (448, 640), (26, 30))
    # 900 x 900 is scaled to 768 x 768.
    assert item(data, "e.")[1].target == (768, 768)


def test_repeats_batches_and_regularisation(data: Dataset) -> None:
    assert [data.batch_size(item(data, s)[1]) for s in ("a_", "c.", "r0", "d.")] == [4, 4, 4, 2]
    plan = Plan(data, 0)
    times = plan.times_per_epoch()
    # hoge: 2 images 3 times, fuga: 1 once; so 7 of the 20 regularisation images an epoch.
    assert [times[item(data, s)[0]] for s in ("a_", "b.", "c.", "d.", "e.")] == [3, 3, 1, 1, 1]
    assert sum(t for t, i in zip(times, data.items, strict=True) if i.source.is_reg) == pytest.approx(7)
    assert {i.weight for i in data.items if i.source.is_reg} == {0.8}
    assert {i.weight for i in data.items if not i.source.is_reg} == {1.0}


def test_captions_of_a_dreambooth_subset(data: Dataset) -> None:
    # a_300_200_80_100.png finds a.txt: the last four parts of the name are its face.
    assert item(data, "a_")[1].captions == ("1girl, hair, eyes, dress",)
    for text in captions(data, "a_"):
        # Prefix and suffix join with a blank and become tags; the dataset's keep_tokens = 2 beats general's 1.
        tags = text.split(", ")
        assert tags[:2] == ["masterpiece", "1girl"]
        assert set(tags[2:]) <= {"hair", "eyes", "dress", "from side"}
    assert len(set(captions(data, "a_"))) > 15
    # b.png has no caption: class_tokens.
    assert item(data, "b.")[1].captions == ("hoge girl",) and item(data, "b.")[1].origin == "missing"
    assert item(data, "r1")[1].captions == ("human",)


def test_captions_with_marks_and_wildcards(data: Dataset) -> None:
    drawn = set(captions(data, "c.", epochs=200))
    # Two lines, of which one is drawn; before the first ||| tags stay, behind the second they end the caption.
    marked = {f"x, y, {rest}, end" for p in "pq" for rest in (f"red,blue, {p}", f"{p}, red,blue")}
    assert drawn == {"second", *marked}


def test_captions_of_a_metadata_file(data: Dataset) -> None:
    assert item(data, "d.")[1].captions == ("a photo, t1, t2, t3, t4",)
    assert item(data, "e.")[1].captions == ("only, tags",)
    drawn = captions(data, "d.", epochs=200)
    # Counted from 1, every fifth epoch has no captions; of the others about 5 %.
    assert all(drawn[epoch] == "" for epoch in range(4, 200, 5))
    others = [text for epoch, text in enumerate(drawn) if epoch % 5 != 4]
    assert set(others) == {"", "a photo, t1, t2, t3, t4"} and others.count("") < 25
    # general's keep_tokens = 1, and a warm-up of the 4 others from 1 over 4 steps: floor(step * (4 - 1) / 4) + 1.
    lengths = [len(max(captions(data, "d.", 4, step), key=len).split(", ")) for step in range(5)]
    assert lengths == [1 + 1, 1 + 1, 1 + 2, 1 + 3, 1 + 4]


def test_views(data: Dataset) -> None:
    index, c = item(data, "c.")
    chosen = [views.choose(c, TrainingSample(0, epoch, Presentation(index, 0)).streams("view")) for epoch in range(40)]
    assert {view.mirrored for view in chosen} == {True, False}
    index, a = item(data, "a_")
    view = views.choose(a, TrainingSample(0, 0, Presentation(index, 0)).streams("view"))
    # The face of 100 pixels, twice: 200 fill the shorter side of 640 x 384, which would be 1.92 times; filling the
    # bucket needs 640 / 600 = 1.067, and nothing is enlarged beyond that.
    assert view.resized == a.resized == (640, 427)
    assert not view.mirrored
    _, b = item(data, "b.")
    assert views.choose(b, TrainingSample(0, 0, Presentation(1, 0)).streams("view")) == views.plain(b)


def test_what_has_no_effect_is_said(data: Dataset) -> None:
    notes = "\n".join(data.notes)
    assert "datasets[1].subsets[0]: custom_attributes has no effect" in notes
    assert "missing captions: 1 of 2 use class_tokens 'hoge girl': b.png" in notes
    assert "missing captions: 20 of 20 use class_tokens 'human'" in notes
