"""The page of all settings: every key has a place, and nothing of the file is taken for HTML."""

from __future__ import annotations

from pathlib import Path

from ui.draft.fields import all_fields
from ui.server.settings_page import page, place_of


def test_every_field_of_the_form_has_its_place() -> None:
    told = page()
    missing = [key for key in all_fields() if f"id='{place_of(key)}'" not in told]
    assert [key for key in missing if key not in PLUGINS] == []


# The switch of a plugin: its table has a section of its own.
PLUGINS = {key for key in all_fields() if any(other.startswith(f"{key}.") for other in all_fields())}


def test_what_looks_like_html_is_text(tmp_path: Path) -> None:
    file = tmp_path / "x.md"
    file.write_text(
        "# All\n\n## `[run]`\n\n| key | what |\n|---|---|\n| `a'b` | <script>, \\<x>, `c` [d](e) |\n\nend\n"
    )
    told = page(file)
    assert "<tr id='run.a&#x27;b'><td><code>a&#x27;b</code></td>" in told
    assert "&lt;script&gt;, &lt;x&gt;, <code>c</code> d</td></tr></table><p>end</p>" in told
