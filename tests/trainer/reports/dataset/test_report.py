"""The dataset report says what training does, and names what is odd."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from rich.console import Console

from trainer.config.schema.data import DatasetSettings, DataSettings, GeneralSettings
from trainer.data.captions.pipeline import Moment
from trainer.data.dataset import Dataset
from trainer.data.order.loader import Loader
from trainer.data.order.plan import Plan, Presentation
from trainer.data.order.sample import TrainingSample
from trainer.data.sources.scan import scan
from trainer.journal.console import Console as TrainerConsole
from trainer.reports.dataset import console as dataset_console
from trainer.reports.dataset import findings as reports
from trainer.reports.dataset import page as dataset_page
from trainer.reports.dataset import report as dataset_run
from trainer.reports.dataset.cutoff import Cut, cutter
from trainer.reports.dataset.duplicates import near
from trainer.reports.dataset.looks import FileLook, fingerprint


def scene(seed: int, width: int = 240, height: int = 160) -> Image.Image:
    """Something that looks like something: soft coloured areas."""
    cells = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def by_words(captions: Any) -> list[Cut]:
    """A text encoder that reads three words."""
    return [Cut(len(text.split()), len(" ".join(text.split(" ")[:3]))) for text in captions]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    scene(1).save(folder / "a.png")
    scene(1, 480, 320).save(folder / "a again.jpg", quality=70)
    scene(2).save(folder / "b.png")
    shutil.copy(folder / "b.png", folder / "b copy.png")
    scene(3, 160, 160).save(folder / "c.png")
    scene(4, 60, 40).save(folder / "small.png")
    scene(5, 900, 90).save(folder / "wide.png")
    masked = scene(6).convert("RGBA")
    masked.putalpha(Image.fromarray(np.repeat(np.array([[255, 0]], np.uint8), 160, 0)).resize((240, 160)))
    masked.save(folder / "masked.png")
    for name, text in {"a": "red, blue", "b": "red, green, one two three", "c": "red", "small": ""}.items():
        (folder / f"{name}.txt").write_text(text)
    (folder / "zero.jpg").touch()
    return folder


def scanned(folder: Path, **options: Any) -> Dataset:
    subset = {"image_dir": str(folder), "num_repeats": 2, "shuffle_caption": True, "alpha_mask": True, **options}
    table = {"resolution": 160, "batch_size": 3, "enable_bucket": True, "min_bucket_reso": 64, "subsets": [subset]}
    table["bucket_reso_steps"] = 32
    return scan(
        [DatasetSettings.model_validate(table)],
        GeneralSettings(),
        DataSettings(),
        config_dir=folder.parent,
        keep_going=True,
    )


@pytest.fixture
def report(photos: Path) -> reports.DatasetReport:
    return reports.examine(scanned(photos), seed=3, steps=40, cutter=by_words, estimate=["cache: 1 MB"], token_limit=4)


def what(report: reports.DatasetReport, name: str) -> list[str]:
    return [p.what for p in report.problems if Path(p.file).name == name]


def test_problems_are_named(report: reports.DatasetReport) -> None:
    assert what(report, "zero.jpg") == ["the file is empty (0 bytes)"]
    assert report.problems[0].stops and report.stops
    assert what(report, "small.png")[:2] == [
        "its caption is empty",
        "too small: enlarged 3.2 times",
    ]
    assert any("is cropped away" in line for line in what(report, "wide.png"))
    assert "it has no caption" in what(report, "wide.png")
    assert any("cut off at " in line and "(5 tokens)" in line for line in what(report, "b.png"))
    copies = [*what(report, "b.png"), *what(report, "b copy.png")]
    assert sum("the same file as" in line for line in copies) == 1
    alike = [*what(report, "a.png"), *what(report, "a again.jpg")]
    assert sum("looks the same as" in line for line in alike) == 1
    assert what(report, "c.png") == []
    assert what(report, "masked.png") == ["it has no caption"]


def test_numbers_are_those_of_training(report: reports.DatasetReport, photos: Path) -> None:
    data = scanned(photos)
    plan = Plan(data, 3)
    trained: Counter[int] = Counter()
    sizes: Counter[int] = Counter()
    for index in range(plan.batches_per_epoch):
        entries = plan.batch(index).entries
        trained.update(entry.item for entry in entries)
        sizes[len(entries)] += 1
    assert [shown.times for shown in report.shown] == [trained[i] for i in range(len(data.items))]
    assert dict(report.batch_sizes) == dict(sizes)
    assert sum(bucket.samples for bucket in report.buckets) == report.samples_per_epoch == sum(trained.values())
    assert report.steps_per_epoch == plan.batches_per_epoch
    loader = Loader(data, plan, 3)
    per_epoch = plan.batches_per_epoch
    for epoch in range(reports.EPOCHS):
        for index in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            batch = loader.batch(index)
            for entry, caption in zip(plan.batch(index).entries, batch.captions, strict=True):
                if entry.repeat == 0:
                    assert report.shown[entry.item].captions[epoch].text == caption


def test_json_has_what_machines_ask_for(report: reports.DatasetReport) -> None:
    found = json.loads(json.dumps(reports.to_json(report)))
    assert found["images"] == 8
    assert {k: found["captions"][k] for k in ("found", "missing", "empty")} == {"found": 3, "missing": 4, "empty": 1}
    assert found["captions"]["cut_off"] == 1
    assert sum(bucket["images"] for bucket in found["buckets"]) == 8
    assert all(bucket["width"] % 32 == 0 and bucket["height"] % 32 == 0 for bucket in found["buckets"])
    assert found["steps"] == 40 and found["steps_per_epoch"] == report.batches_per_epoch
    assert found["problems"][0]["file"].endswith("zero.jpg") and found["would_train"] is False
    assert {"tag": "red", "images": 3} in found["tags"]
    assert [len(group) for group in found["duplicates"]["exact"]] == [2]
    assert found["subsets"][0]["images"] == 8 and found["subsets"][0]["samples"] == 16
    assert found["notes"] and found["estimate"] == ["cache: 1 MB"]


def test_accumulation_makes_fewer_steps(photos: Path) -> None:
    data = scanned(photos)
    one, three = (reports.examine(data, seed=1, steps=10, batches_per_step=n) for n in (1, 3))
    assert three.steps_per_epoch == -(-one.steps_per_epoch // 3)
    assert one.cut_off() is None


def test_a_file_that_breaks_only_when_decoded(photos: Path) -> None:
    path = photos / "torn.bmp"
    scene(8).save(path)
    path.write_bytes(path.read_bytes()[:-5000])
    report = reports.examine(scanned(photos), seed=1, steps=10)
    assert any("truncated" in line for line in what(report, "torn.bmp"))
    assert next(p for p in report.problems if p.file.endswith("torn.bmp")).stops
    assert reports.to_json(report)["images"] == 8


def test_page_is_self_contained_and_escaped(photos: Path, tmp_path: Path) -> None:
    (photos / "c.txt").write_text("<script>alert(1)</script> & co one two")
    scene(9).save(photos / "<b> & 'x'.png")
    report = reports.examine(scanned(photos), seed=3, steps=40, cutter=by_words)
    dataset_page.write(report, "my <run>", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b> &" not in page and "my <run>" not in page
    for outside in ("http://", "https://", 'src="/', "url("):
        assert outside not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count("data:image/webp;base64,") == len(report.shown) + 1  # and one mask
    assert "<s>" in page
    assert "Training would not start because of 1 problem," in page


def test_frame_is_the_crop(report: reports.DatasetReport) -> None:
    page = dataset_page.render(report, "x")
    wide = next(shown for shown in report.shown if shown.item.path.endswith("wide.png"))
    left, width = wide.view.corner[0] / wide.view.resized[0], wide.item.target[0] / wide.view.resized[0]
    assert f"left:{left:.2%};top:0.00%;width:{width:.2%};height:100.00%" in page


def test_console(report: reports.DatasetReport) -> None:
    console = Console(file=io.StringIO(), width=120)
    dataset_console.show(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "captions: 3 found, 4 missing, 1 empty, 1 cut off (they are read up to 4 tokens: model.max_tokens)" in text
    assert "cannot be used: 1 image\n  zero.jpg: the file is empty" in text
    assert "without a caption: 4 images\n" in text and "  and 1 more\n" in text
    copy = next(line for line in text.splitlines() if "the same file as" in line)
    assert copy.strip() in ("b.png: the same file as b copy.png", "b copy.png: the same file as b.png")
    assert text.splitlines()[0].split()[-1] == "masks", "the fixture has one"
    assert "Training would not start" in text
    assert "[" in text and "datasets[0].subsets[0]" in text


def test_a_check_writes_both_files_and_says_where(photos: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "output/run"
    report = dataset_run.check(
        scanned(photos), name="run", folder=folder, seed=3, steps=40, batches_per_step=1, console=TrainerConsole()
    )
    assert json.loads((folder / "dataset-report.json").read_text()) == reports.to_json(report)
    assert "Dataset of run" in (folder / "dataset-report.html").read_text()
    said = capsys.readouterr().out
    assert "captions: 3 found" in said and "dataset-report.html" in said


def test_alike_survives_what_copies_go_through_and_tells_others_apart() -> None:
    def distance(one: Image.Image, other: Image.Image) -> int:
        return (fingerprint(one)[0] ^ fingerprint(other)[0]).bit_count()

    original = scene(11)
    buffer = io.BytesIO()
    original.save(buffer, "jpeg", quality=40)
    changed = [
        Image.open(buffer),
        original.resize((97, 64)),
        original.filter(ImageFilter.GaussianBlur(2)),
        original.point(lambda v: v * 0.95 + 3),
    ]
    assert max(distance(original, other) for other in changed) <= 7
    others = [distance(scene(a), scene(b)) for a in range(20) for b in range(a)]
    assert min(others) > 20


def test_flat_pictures_are_told_apart_by_brightness() -> None:
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("black", "white", "#020202")]
    looks = [FileLook(content=bytes([i]), shape=s, tone=t) for i, (s, t) in enumerate(map(fingerprint, pictures))]
    assert near(looks, [(64, 64)] * 3) == [[0, 2]]
    assert near(looks, [(64, 64), (64, 64), (128, 64)]) == []


def test_crowds_are_searched_too() -> None:
    looks = [FileLook(content=n.to_bytes(2, "big"), shape=(n << 16) | 0xABCD, tone=9) for n in range(0, 3000, 5)]
    looks.append(FileLook(content=b"copy", shape=looks[300].shape ^ (1 << 100), tone=10))
    assert any({300, 600} <= set(group) for group in near(looks, [(64, 64)] * len(looks)))


def test_cutting_by_a_tokenizer() -> None:
    def tokenizer(texts: list[str], **options: Any) -> dict[str, Any]:
        assert options["return_offsets_mapping"] and not options["add_special_tokens"]
        offsets = []
        for text in texts:
            ends = [i for i, c in enumerate(text + " ") if c == " "]
            offsets.append([(begin, end) for begin, end in zip([0, *(e + 1 for e in ends)], ends, strict=False)])
        return {"offset_mapping": offsets}

    long, short = cutter(tokenizer, limit=5)(["one two three four five", "one two"])
    assert (long.tokens, "one two three four five"[: long.kept]) == (5, "one two three")
    assert (short.tokens, short.kept) == (2, 7)


def test_sampled_captions_are_of_the_epochs(photos: Path) -> None:
    data = scanned(photos)
    report = reports.examine(data, seed=5, steps=30)
    item = next(i for i, item in enumerate(data.items) if item.path.endswith("b.png"))
    expected = [
        TrainingSample(5, e, Presentation(item, 0)).caption(data.items[item], Moment(e, e, 30)) for e in range(3)
    ]
    assert [caption.text for caption in report.shown[item].captions] == expected
