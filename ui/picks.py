"""Clicks on parts of an HTML view: an element with `data-pick` hands that text to the server."""

from __future__ import annotations

import gradio as gr

# Listens on the view itself, whose inside is replaced all the time.
ON_LOAD = """
element.addEventListener("click", (event) => {
  const part = event.target.closest("[data-pick]");
  if (part) trigger("click", { pick: part.dataset.pick });
});
"""
# The boxes that are ticked, all of them, as JSON.
ON_LOAD_BOXES = """
element.addEventListener("change", () => {
  const ticked = [...element.querySelectorAll("[data-box]:checked")].map((box) => box.dataset.box);
  trigger("change", { pick: JSON.stringify(ticked) });
});
"""


def picked(event: gr.EventData) -> str:
    """The text that came with a click; it comes from the browser, so it may be anything."""
    told = event._data
    found = told.get("pick", "") if isinstance(told, dict) else ""
    return found if isinstance(found, str) else ""
