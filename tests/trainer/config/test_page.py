"""The page of all settings: complete, and the one in docs is today's."""

from __future__ import annotations

from pathlib import Path

from trainer.config.foreign.names import names_of
from trainer.config.keys import keys as schema_keys
from trainer.config.page import markdown
from trainer.config.schema.data import DatasetSettings, SubsetSettings

PAGE = Path(__file__).parents[3] / "docs/settings.md"


def test_the_page_in_docs_is_todays() -> None:
    stale = "run: python -m trainer schema --markdown > docs/settings.md"
    assert PAGE.read_text(encoding="utf-8") == markdown() + "\n", stale


def test_every_key_and_every_name_elsewhere_is_on_it() -> None:
    page = markdown()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 for row in rows)
    listed = {row[0].removeprefix("| ").strip("`") for row in rows}
    paths = [path for path, _ in schema_keys()]
    for path, _ in schema_keys():
        if any(other.startswith((f"{path}.", f"{path}[]")) for other in paths):
            continue  # a table
        assert path.rpartition(".")[2] in listed, path
        assert all(f"`{other}`" in page for other in names_of(path)), path
    assert {*SubsetSettings.model_fields, *DatasetSettings.model_fields} - {"subsets"} <= listed


def test_defaults_are_as_toml_writes_them() -> None:
    page = markdown()
    assert "| `seed` | `42` |" in page and "| `skip_broken` | `false` |" in page
    assert "| `rates` | `{}` |" in page and "| `timesteps` | `[0, 1000]` |" in page
    assert 'One of `"lora"`, `"full"`.' in page
