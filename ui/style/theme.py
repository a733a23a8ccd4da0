"""How the page looks: Gradio's theme, our style sheet and the script of the page. Nothing is loaded from elsewhere."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

# Two drops that do not mix.
ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><circle cx='5.5' cy='8' r='4' fill='#0d9488'/>"
    "<circle cx='11' cy='8' r='3.5' fill='none' stroke='#0d9488'/></svg>"
)
HERE = Path(__file__).parent
SCRIPTS = ("answers.js", "page.js")
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",  # links
        neutral_hue="slate",
        font=FONTS,
        font_mono=MONO,
        text_size="sm",
        spacing_size="sm",
        radius_size="md",
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        # Slate 400, Gradio's choice for light pages, is too pale to read.
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        block_label_text_weight="500",
        block_title_text_weight="500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_text_color="white",
    )


@cache
def css() -> str:
    return (HERE / "page.css").read_text(encoding="utf-8")


def head(index: list[dict[str, Any]]) -> str:
    """The page's script, with the index of keys that its search uses."""
    # "</" would end the script early.
    data = json.dumps(index).replace("</", "<\\/")
    # Before Gradio's own: it wraps what they ask the server with.
    scripts = "".join(f"<script>{(HERE / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS)
    icon = f"<link rel='icon' href='data:image/svg+xml,{quote(ICON)}'>"
    return f"{icon}<script>window.fieldIndex = {data};</script>{scripts}"
