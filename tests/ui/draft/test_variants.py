"""Variants of one setting: what is made of each value, and what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.ui.conftest import write_config
from trainer.errors import UserError
from ui.draft import session
from ui.draft.session import Page
from ui.draft.variants import variants
from ui.work import queue as queues
from ui.workspace import Workspace


@pytest.fixture
def page(place: Workspace) -> Page:
    write_config(place, "one")
    return session.open_config(place, "one.toml")


def values(page: Page, key: str, written: str) -> list[object]:
    found = []
    for variant in variants(page, key, written, set()):
        at: object = tomllib.loads(variant.text)
        for part in key.split("."):
            at = at.get(part, "default") if isinstance(at, dict) else at
        found.append(at)
    return found


def test_each_value_makes_a_config_that_differs_in_it_alone(page: Page) -> None:
    made = variants(page, "noise.oversampling.k", "off, 64, 256, 64", set())
    assert [v.name for v in made] == ["one-oversampling-off", "one-oversampling-64", "one-oversampling-256"]
    plain, *others = (tomllib.loads(v.text) for v in made)
    for config in others:
        assert config.pop("noise")["oversampling"] in (64, 256)
    plain.pop("noise", None)
    names = [config["run"].pop("name") for config in (plain, *others)]
    assert names == [v.name for v in made]
    assert plain == others[0] == others[1]


def test_rates_seeds_choices_and_lists_are_values(page: Page) -> None:
    assert values(page, "optimizer.lr", "2e-4; 5e-5") == [2e-4, 5e-5]
    assert values(page, "run.seed", "1\n2") == [1, 2]
    assert values(page, "training.method", "full") == ["full"]
    assert values(page, "noise.oversampling.timesteps", "[0, 500], [500, 1000]")[:1] != []


@pytest.mark.parametrize(
    ("key", "written", "said"),
    [
        ("run.name", "a", "choose one of the list"),
        ("no.such", "1", "choose one of the list"),
        ("lora.rank", "", "expected 1 to"),
        ("lora.rank", ",".join(map(str, range(1, 30))), "expected 1 to"),
        ("lora.rank", "8, many", "lora.rank"),
        ("optimizer.name", "a/b, a b", "two of them give the same name"),
    ],
)
def test_what_makes_no_runs_is_refused(page: Page, key: str, written: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        variants(page, key, written, set())


def test_names_that_are_taken_are_refused_and_nothing_is_queued(
    page: Page, place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "work", lambda workspace: None)
    with pytest.raises(UserError, match="one-rank-8: there is such a run"):
        variants(page, "lora.rank", "8, 16", {"one-rank-8"})
    made = variants(page, "lora.rank", "8, 16", set())
    items = queues.add_texts(place, {v.name: v.text for v in made})
    assert [queues.run_of(place, item) for item in items] == ["output/one-rank-8", "output/one-rank-16"]
    assert Path(place.root / "one-rank-8.toml").read_text() == made[0].text
    with pytest.raises(UserError, match="such a file already"):
        queues.add_texts(place, {"new": made[0].text, "one-rank-8": made[0].text})
    assert not (place.root / "new.toml").exists()


def test_an_option_of_images_is_varied_wherever_it_counts_and_held_out_images_stay(page: Page) -> None:
    text = """[general]
caption_dropout_rate = 0.5
[model]
base = "base"
[[datasets]]
resolution = 512
caption_dropout_rate = 0.1
[[datasets.subsets]]
image_dir = "a"
caption_dropout_rate = 0.2
[[datasets.subsets]]
image_dir = "b"
[[datasets]]
[[datasets.subsets]]
image_dir = "c"
[[validation.datasets]]
resolution = 512
[[validation.datasets.subsets]]
image_dir = "held-out"
"""
    page = session.open_text(text, page)

    def effective(written: str, name: str) -> list[object]:
        """What each training folder trains with, the innermost value first."""
        config = tomllib.loads(written)
        above = config["general"]
        return [
            {**above, **dataset, **folder}.get(name) for dataset in config["datasets"] for folder in dataset["subsets"]
        ]

    for key, name, wanted in (
        ("datasets[].subsets[].caption_dropout_rate", "caption_dropout_rate", [0, 0.3]),
        ("datasets[].subsets[].num_repeats", "num_repeats", [1, 5]),
        ("datasets[].resolution", "resolution", [256, 768]),
        ("datasets[].batch_size", "batch_size", [1, 4]),
        ("datasets[].subsets[].flip_aug", "flip_aug", [True, False]),
    ):
        typed = ["yes" if v is True else "off" if v is False else str(v) for v in wanted]
        made = variants(page, key, ", ".join(typed), set())
        for variant, value in zip(made, wanted, strict=True):
            assert effective(variant.text, name) == [value] * 3, key
            assert tomllib.loads(variant.text)["validation"] == tomllib.loads(text)["validation"]
    with pytest.raises(UserError, match="the 3 folders"):
        variants(page, "datasets[].subsets[].image_dir", "x, y", set())
    for overruled in ("general.caption_dropout_rate", "datasets[].caption_dropout_rate"):
        with pytest.raises(UserError, match="choose one of the list"):
            variants(page, overruled, "0, 1", set())
