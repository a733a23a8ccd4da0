"""What is held out: never anything that trains, the same choice everywhere, from path and seed alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from trainer.config.schema.data import DatasetSettings, DataSettings, GeneralSettings
from trainer.config.schema.validation import ValidationSettings
from trainer.data.dataset import Dataset, Rendering
from trainer.data.order import holdout
from trainer.data.order.holdout import Split
from trainer.data.order.plan import Plan
from trainer.data.sources.scan import scan
from trainer.errors import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Callable[[str, Iterable[str]], Path]:
    """Makes a folder of captioned images."""

    def make(folder: str, names: Iterable[str]) -> Path:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.new("RGB", (64, 64)).save(tmp_path / folder / f"{name}.png")
            (tmp_path / folder / f"{name}.txt").write_text(f"a photo of {name}")
        return tmp_path / folder

    return make


def scanned(*tables: dict[str, object], general: dict[str, object] | None = None) -> Dataset:
    tables_ = [DatasetSettings.model_validate({"resolution": 64, **table}) for table in tables]
    return scan(tables_, GeneralSettings.model_validate(general or {}), DataSettings(), config_dir=Path.cwd())


def subset(folder: Path, **options: object) -> dict[str, object]:
    return {"image_dir": str(folder), **options}


def names(dataset: Dataset) -> set[str]:
    return {holdout.name_of(item) for item in dataset.items}


def trained(split: Split) -> set[str]:
    """The files that an epoch really shows."""
    plan = Plan(split.training, 0)
    shown = {e.item for index in range(plan.batches_per_epoch) for e in plan.batch(index).entries}
    return {split.training.items[item].path for item in shown}


def test_no_image_trains_and_is_held_out_whatever_its_repeats(photos: Callable[..., Path]) -> None:
    folder = photos("photos", map(str, range(40)))
    for seed in range(5):
        data = scanned({"subsets": [subset(folder, num_repeats=3)]})
        found = holdout.split(data, ValidationSettings(split=0.2, seed=seed))
        held = {item.path for item in found.held_out.items}
        assert len(held) == 8
        assert trained(found) == {item.path for item in data.items} - held


def test_the_seed_chooses_and_the_place_of_the_folder_does_not(photos: Callable[..., Path]) -> None:
    one, other = photos("a/photos", map(str, range(30))), photos("b/photos", map(str, range(30)))

    def held(folder: Path, seed: int) -> set[str]:
        return names(
            holdout.split(scanned({"subsets": [subset(folder)]}), ValidationSettings(split=0.2, seed=seed)).held_out
        )

    assert held(one, 1) == held(other, 1)
    assert held(one, 1) != held(one, 2)


def test_more_images_never_bring_a_held_out_one_into_training_by_chance(photos: Callable[..., Path]) -> None:
    """Of twice the images twice as many are held out, and nearly all of the first ones still are."""
    folder = photos("photos", map(str, range(40)))
    first = names(holdout.split(scanned({"subsets": [subset(folder)]}), ValidationSettings(split=0.25)).held_out)
    photos("photos", map(str, range(40, 80)))
    second = names(holdout.split(scanned({"subsets": [subset(folder)]}), ValidationSettings(split=0.25)).held_out)
    assert len(second) == 20
    # An unrelated choice would keep about a quarter.
    assert len(first & second) >= 7


def test_an_image_in_several_datasets_is_held_out_of_all(photos: Callable[..., Path], tmp_path: Path) -> None:
    folder = photos("photos", map(str, range(20)))
    (tmp_path / "links").mkdir()
    for file in folder.iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    small = {"resolution": 32, "min_bucket_reso": 32, "subsets": [subset(tmp_path / "links")]}
    data = scanned({"subsets": [subset(folder)]}, small)
    found = holdout.split(data, ValidationSettings(split=0.2))
    held = {Path(item.path).resolve() for item in found.held_out.items}
    assert {Path(path).resolve() for path in trained(found)}.isdisjoint(held)
    assert len(found.held_out.items) == 2 * len(held)


def test_regularisation_images_always_train(photos: Callable[..., Path]) -> None:
    mine, theirs = photos("mine", map(str, range(10))), photos("theirs", map(str, range(30)))
    data = scanned({"subsets": [subset(mine), subset(theirs, is_reg=True)]})
    found = holdout.split(data, ValidationSettings(split=0.3))
    assert names(found.held_out) <= {f"mine/{i}.png" for i in range(10)}
    assert len(found.held_out.items) == 3
    assert sum(item.source.is_reg for item in found.training.items) == 30


def test_every_subset_keeps_an_image_that_trains(photos: Callable[..., Path]) -> None:
    data = scanned({"subsets": [subset(photos("lone", ["x"])), subset(photos("pair", ["a", "b"]))]})
    found = holdout.split(data, ValidationSettings(split=0.9))
    assert names(found.held_out) < {"pair/a.png", "pair/b.png"}
    assert {item.source.where for item in found.training.items} == {source.where for source in data.sources}


def test_one_image_cannot_be_held_out(photos: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"validation\.split: 0\.5 of 1 images"):
        holdout.split(scanned({"subsets": [subset(photos("lone", ["x"]))]}), ValidationSettings(split=0.5))


def test_kohyas_keys_of_a_dataset_count(photos: Callable[..., Path]) -> None:
    one, other = photos("one", map(str, range(20))), photos("other", map(str, range(20)))
    data = scanned({"validation_split": 0.1, "subsets": [subset(one)]}, {"subsets": [subset(other)]})
    assert len(holdout.split(data, ValidationSettings()).held_out.items) == 2
    assert len(holdout.split(data, ValidationSettings(split=0.5)).held_out.items) == 2 + 10
    none = scanned({"validation_split": 0.0, "subsets": [subset(one)]}, {"subsets": [subset(other)]})
    held = holdout.split(none, ValidationSettings(split=0.5)).held_out
    assert {item.source.folder.name for item in held.items} == {other.name}  # 0 is none, not "as the others"
    seeded = [scanned({"validation_split": 0.3, "validation_seed": s, "subsets": [subset(one)]}) for s in (1, 2)]
    first, second = (names(holdout.split(d, ValidationSettings()).held_out) for d in seeded)
    assert first != second


def test_nothing_asked_is_nothing_held_out(photos: Callable[..., Path]) -> None:
    data = scanned({"subsets": [subset(photos("photos", ["a", "b"]))]})
    found = holdout.split(data, ValidationSettings())
    assert found.training == data
    assert found.held_out.items == ()


def own(training: Dataset, **tables: object) -> Split:
    settings = ValidationSettings.model_validate({"datasets": [{"resolution": 64, **tables}]})
    return holdout.own_images(training, settings, GeneralSettings(), DataSettings(), config_dir=Path.cwd())


def test_images_of_their_own_have_sizes_that_the_base_takes(photos: Callable[..., Path]) -> None:
    training = replace(
        scanned({"subsets": [subset(photos("photos", ["a"]))]}), rendering=Rendering(cell=8, size_multiple=48)
    )
    others = [subset(photos("others", ["d"]))]
    with pytest.raises(UserError, match=r"^validation\.datasets\[0\]\.resolution: 64 is not a multiple of 48 pixels"):
        own(training, subsets=others)
    assert own(training, resolution=96, subsets=others).held_out.rendering == training.rendering


def test_images_of_their_own_must_not_train(photos: Callable[..., Path]) -> None:
    training = scanned({"subsets": [subset(photos("photos", ["a", "b", "c"]))]})
    found = own(training, subsets=[subset(photos("others", ["d"]))])
    assert names(found.held_out) == {"others/d.png"}
    assert found.training == training
    with pytest.raises(UserError, match=r"validation\.datasets: 3 of its images train too: .*a\.png"):
        own(training, subsets=[subset(photos("photos", []))])


def test_what_is_wrong_with_them_is_named_at_its_place(tmp_path: Path, photos: Callable[..., Path]) -> None:
    training = scanned({"subsets": [subset(photos("photos", ["a"]))]})
    with pytest.raises(UserError, match=r"^validation\.datasets\[0\]\.subsets\[0\]\.image_dir: "):
        own(training, subsets=[subset(tmp_path / "nowhere")])


def test_copies_of_held_out_images_that_train_are_found(photos: Callable[..., Path]) -> None:
    folder = photos("photos", "abcdefgh")
    for index, path in enumerate(sorted(folder.glob("*.png"))):
        Image.new("L", (64, 64), 100 + index).save(path)
    assert len({path.stat().st_size for path in folder.glob("*.png")}) < 8  # some are alike in size, none in content
    data = scanned({"subsets": [subset(folder)]})
    split = holdout.split(data, ValidationSettings(split=0.25))
    assert holdout.copies(split) == []
    (held, other), trains = sorted(i.path for i in split.held_out.items), split.training.items[0].path
    Path(trains).write_bytes(Path(held).read_bytes())
    assert holdout.copies(split) == [(trains, held)]
    Path(other).write_bytes(Path(held).read_bytes())
    assert holdout.copies(split) == [(trains, held), (trains, other)]
