"""The dataset page: captions changed as a whole and back, pictures found, views that show what will be trained."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.config import reading
from trainer.data.captions import edits
from trainer.errors import UserError
from ui.draft import session
from ui.pages.dataset import DatasetPage, Shown
from ui.pages.form import Form
from ui.pages.setup import Setup
from ui.server.media import Media
from ui.views import dataset as views
from ui.work import captions, looks
from ui.work.captions import Change, Editor
from ui.work.look import CaptionView, DatasetLook, ImageView, look
from ui.work.look import read as read_look
from ui.workspace import Workspace

CONFIG = """
[model]
base = "base"
[[datasets]]
resolution = 64
batch_size = 2
enable_bucket = true
min_bucket_reso = 32
max_bucket_reso = 128
bucket_reso_steps = 16
[[datasets.subsets]]
image_dir = "photos"
trigger = "ohwx"
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, size in (("wide", (60, 90)), ("square", (64, 64)), ("bare", (64, 64))):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    (folder / "wide.txt").write_text("a cat, red\n")
    (folder / "square.txt").write_text("a dog, red, small")
    (folder / "broken.png").write_bytes(b"no image")
    (tmp_path / "run.toml").write_text(CONFIG)
    return folder


@pytest.fixture
def found(photos: Path) -> DatasetLook:
    out = photos.parent / "look.json"
    look(photos.parent / "run.toml", out)
    told = read_look(out)
    assert told is not None
    return told


def test_a_look_shows_every_image_as_it_will_be_trained(found: DatasetLook, photos: Path) -> None:
    by_name = {Path(p.file).name: p for p in found.pictures}
    wide = by_name["wide.png"]
    assert (wide.original, wide.bucket) == ((90, 60), (80, 48))
    assert wide.crop == pytest.approx((0.0, 0.5 - 48 / 54 / 2, 1.0, 48 / 54), abs=0.03)
    assert wide.captions[0].text == "ohwx, a cat, red"
    assert wide.written == "a cat, red"
    assert wide.caption_file == str(photos / "wide.txt")
    assert by_name["bare.png"].caption_file == str(photos / "bare.txt")
    assert by_name["bare.png"].problems
    assert [bool(p.problems) for p in found.pictures] == sorted(
        (bool(p.problems) for p in found.pictures), reverse=True
    )
    assert found.report["captions"]["missing"] == 1
    assert any("broken.png" in p["file"] and p["stops"] for p in found.report["problems"])


def test_the_look_of_an_unsaved_form_is_made_by_a_process_of_its_own(photos: Path) -> None:
    place = Workspace(photos.parent)
    page = session.open_config(place, "run.toml")
    said = list(looks.make(place, page))
    assert said[0] == looks.STARTING
    assert any(re.fullmatch(r"looking at image 3 of 3", line) for line in said), said
    told = looks.need(place, looks.id_of(page))
    assert len(told.pictures) == 3
    for id in ("../look", "", "x" * 16, "0" * 16):
        with pytest.raises(UserError, match="look at the images first"):
            looks.need(place, id)
    for index in ("", "3", "-1", "1e9", "x"):
        with pytest.raises(UserError, match="choose an image"):
            looks.picture(told, index)


def test_what_cannot_be_looked_at_says_why(photos: Path) -> None:
    place = Workspace(photos.parent)
    page = session.opened(session.open_config(place, "run.toml").draft)
    wrong = session.open_text(CONFIG.replace('"photos"', '"elsewhere"'), page)
    with pytest.raises(UserError, match="elsewhere"):
        list(looks.make(place, wrong))


def test_the_cut_off_part_of_a_caption_is_marked_and_nothing_is_markup() -> None:
    shown = views.caption_html(CaptionView(text="a <b>cat</b> & more", tokens=90, kept=7))
    assert shown == "a &lt;b&gt;ca<s title='cut off: 90 tokens'>t&lt;/b&gt; &amp; more</s>"
    assert views.caption_html(CaptionView(text="", tokens=0)) == "<i>(empty)</i>"


def test_pages_of_five_thousand_images(tmp_path: Path) -> None:
    pictures = [
        ImageView(
            file=str(tmp_path / f"{i}.png"), caption_file="", written=f"tag{i % 7}, x", original=(640, 480),
            bucket=(512, 512) if i % 3 else (640, 448), crop=(0, 0, 1, 1), times=1.0,
            captions=[CaptionView(text=f"tag{i % 7}, x")], problems=["odd"] if i == 4321 else [], subset="datasets[0]",
        )
        for i in range(5000)
    ]  # fmt: skip
    told = DatasetLook(report={}, pictures=pictures)
    media = Media(tmp_path / "state")
    began = time.process_time()
    places = views.chosen(told, "", "")
    pages = [views.gallery_html(media, told, places[24 * number :][:24], -1) for number in range(20)]
    assert (time.process_time() - began) / 20 < 0.2
    assert all(page.count("<img") == 24 for page in pages)
    assert views.chosen(told, "problems", "") == [4321]
    assert len(views.chosen(told, "640 x 448", "")) == 1667
    assert views.chosen(told, "", "tag3 4321.png") == []
    assert views.chosen(told, "", "tag2 4321.png") == [4321]
    assert "No image fits" in views.gallery_html(media, told, [], -1)


def test_an_edit_goes_to_the_file_and_back(photos: Path, tmp_path: Path, found: DatasetLook) -> None:
    editor = Editor(tmp_path / "state")
    file, bare = photos / "wide.txt", photos / "bare.txt"
    before = file.read_bytes()
    editor.write("one", captions.changes([file], lambda _: "new text", new=True))
    assert file.read_bytes() == b"new text\n"
    editor.write("two", captions.changes([bare], lambda _: "made", new=True))
    picture = next(p for p in found.pictures if p.caption_file == str(file))
    assert views.edited_since(picture) == "new text"
    assert editor.last() == "two"
    editor.undo()
    assert not bare.exists()
    assert editor.undo() == "Took back: one."
    assert file.read_bytes() == before
    assert views.edited_since(picture) is None
    with pytest.raises(UserError, match="nothing to undo"):
        editor.undo()


def test_undo_leaves_alone_what_somebody_else_changed_since(photos: Path, tmp_path: Path) -> None:
    editor = Editor(tmp_path / "state")
    files = [photos / "wide.txt", photos / "square.txt"]
    editor.write("many", captions.changes(files, lambda text: edits.replaced(text, "red", "blue")))
    files[0].write_text("mine now")
    assert "wide.txt" in editor.undo()
    assert files[0].read_text() == "mine now"
    assert files[1].read_text() == "a dog, red, small"


def test_tags_are_replaced_removed_and_put_first(photos: Path) -> None:
    assert edits.replaced("a cat, red, big", "red", "blue") == "a cat, blue, big"
    assert edits.replaced("a cat, red, blue", "red", "blue") == "a cat, blue"
    assert edits.replaced("a cat, red", "red", "") == "a cat"
    assert edits.replaced("a redder cat, x", "red", "blue") == "a redder cat, x"
    assert edits.with_first("a cat, ohwx, red", "ohwx") == "ohwx, a cat, red"
    changes = captions.changes([photos / "wide.txt", photos / "bare.txt"], lambda t: edits.replaced(t, "red", "b"))
    assert changes == [Change(photos / "wide.txt", "a cat, red\n", "a cat, b\n")]
    assert captions.frequencies(["a, b, a", "b"]) == {"a": 1, "b": 2}


def test_a_dropped_image_lies_beside_the_others_with_its_caption(photos: Path) -> None:
    captions.drop(photos / "wide.png", photos / "wide.txt")
    assert sorted(p.name for p in (photos / "removed").iterdir()) == ["wide.png", "wide.txt"]
    Image.new("RGB", (8, 8)).save(photos / "wide.png")
    second = captions.drop(photos / "wide.png", photos / "wide.txt")
    assert second.name != "wide.png", "nothing is overwritten"
    with pytest.raises(UserError, match="could not be moved"):
        captions.drop(photos / "wide.png", None)


def test_captions_that_no_caption_is_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too long"):
        Editor(tmp_path).write("x", [Change(photos / "wide.txt", None, "x" * 20_001)])
    (photos / "wide.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"wide\.txt"):
        captions.changes([photos / "wide.txt"], str.upper)


def test_files_that_break_are_found_and_can_be_moved_away(found: DatasetLook, photos: Path) -> None:
    assert views.broken(found) == [photos / "broken.png"]
    captions.drop(photos / "broken.png", photos / "broken.txt")
    assert views.broken(found) == []
    assert (photos / "removed" / "broken.png").is_file()
    out = photos.parent / "again.json"
    look(photos.parent / "run.toml", out)
    again = read_look(out)
    assert again is not None
    assert len(again.pictures) == 3
    assert not any(problem["stops"] for problem in again.report["problems"])


def test_what_does_not_reach_the_model_is_marked(photos: Path) -> None:
    """With the tokenizer of the demo's base: 77 positions, less begin and end."""
    demo = Path(__file__).resolve().parents[3] / "demo" / "base"
    (photos.parent / "run.toml").write_text(CONFIG.replace('base = "base"', f"base = '{demo}'"))
    (photos / "wide.txt").write_text(", ".join(["one"] * 60) + "\n")
    out = photos.parent / "look.json"
    look(photos.parent / "run.toml", out)
    told = read_look(out)
    assert told is not None
    cut = next(p for p in told.pictures if p.file.endswith("wide.png")).captions[0]
    assert cut.tokens is not None and cut.kept is not None
    assert cut.tokens > 75
    assert 0 < cut.kept < len(cut.text)
    assert f"<s title='cut off: {cut.tokens} tokens'>" in views.caption_html(cut)
    assert told.report["captions"]["cut_off"] >= 1


def test_a_page_of_a_large_dataset_touches_its_own_images_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 5_000
    pictures = [
        ImageView(
            file=str(tmp_path / f"{i}.png"), caption_file=str(tmp_path / f"{i}.txt"), written=f"cat {i}",
            original=(64, 64), bucket=(64, 64), crop=(0, 0, 1, 1), times=1, captions=[CaptionView(text=f"cat {i}")],
            problems=[], subset="datasets[0].subsets[0]",
        )
        for i in range(count)
    ]  # fmt: skip
    found = DatasetLook(report={}, pictures=pictures)
    touched: list[Path] = []
    monkeypatch.setattr(views, "read", lambda file: touched.append(file))
    place = Workspace(tmp_path)
    (looks.folder(place) / f"{'0' * 16}.json").parent.mkdir(parents=True)
    (looks.folder(place) / f"{'0' * 16}.json").write_text(found.model_dump_json())
    shown = DatasetPage(place, Media(tmp_path), Setup(place, Form({})))
    number, where, page, _ = shown._grid(Shown("0" * 16, "", "", "7", "", "48"))
    assert touched == [tmp_path / f"{i}.txt" for i in range(7 * 48, 8 * 48)]
    assert page.count("<img") == page.count("loading='lazy'") == 48
    assert "page 8 of 105" in where
    # More on a page: what was looked at is still there, and the choice is kept.
    number, where, page, _ = shown._counted("0" * 16, "", "", "10", "", "96")
    assert (number, shown._kept_count()) == ("2", "96")
    assert "240.png" in page
    for sent in ("", "1000000", "x", None):
        assert Shown("0" * 16, "", "", "0", "", sent).per_page == 24  # type: ignore[arg-type]
    assert views.chosen(found, "", "cat 4321") == [4321]


def test_equal_warnings_stand_together() -> None:
    problems = [{"file": f"/p/{i}.png", "what": f"{10 * i}% of it is cropped away"} for i in range(1, 5)]
    problems.append({"file": "/p/9.png", "what": "has no caption"})
    kinds = views.grouped(problems)
    assert [len(kind) for kind in kinds] == [4, 1]
    assert kinds[0][1] == ("2.png", "20% of it is cropped away")


def test_images_can_be_looked_at_before_a_base_is_chosen(photos: Path) -> None:
    for written in ("[[datasets]]\n", '[model]\nbase = ""\n[[datasets]]\n'):
        with pytest.raises(UserError):
            reading.parse(written, directory=photos.parent, source="x")
        text = looks.with_some_base(written + '[[datasets.subsets]]\nimage_dir = "photos"\n')
        assert reading.parse(text, directory=photos.parent, source="x").model.base.endswith(looks.NO_BASE)


def test_each_edit_of_captions_is_what_it_says() -> None:
    caption = "b, a cat, Red, a cat"
    expected = {"add": "b, a cat, Red, new", "first": "new, b, a cat, Red", "sort": "a cat, b, Red"}
    for kind, after in expected.items():
        what, edit = edits.edit_of(kind, "" if kind == "sort" else " new ")
        assert edit(caption) == after, what
        assert edit(after) == after, f"{kind} twice"
    assert edits.edit_of("remove", "a cat")[1](caption) == "b, Red"
    assert edits.edit_of("replace", "a cat", "b")[1](caption) == "b, Red"
    assert edits.edit_of("sort", "Red")[1](caption) == "Red, a cat, b"
    assert edits.edit_of("add", "x")[1]("") == "x"
    for wrong in (("add", ""), ("replace", "a", ""), ("remove", "a, b"), ("burn", "a")):
        with pytest.raises(UserError):
            edits.edit_of(*wrong)


def test_a_change_of_many_captions_is_shown_before_it_is_made(photos: Path) -> None:
    changes = captions.changes([photos / "wide.txt", photos / "square.txt"], edits.edit_of("remove", "red")[1])
    said = views.changes_html(changes, 3)
    assert "2 of 3 captions would change" in said
    assert "<s>a cat, red</s><br>a cat" in said
    assert (photos / "wide.txt").read_text() == "a cat, red\n"
