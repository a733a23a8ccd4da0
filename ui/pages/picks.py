"""What the browser hands to the server besides the form: clicks on parts of an HTML view, choices in lists."""

from __future__ import annotations

import json

import gradio as gr

# An element with `data-pick` hands that text over, with `data-ask` also what the person answers to it as "said".
# Listens on the view itself, whose inside is replaced all the time.
ON_LOAD = """
element.addEventListener("click", (event) => {
  const part = event.target.closest("[data-pick]");
  if (!part || (part.dataset.confirm && !window.confirm(part.dataset.confirm))) return;
  let pick = part.dataset.pick;
  if (part.dataset.ask) {
    const said = window.prompt(part.dataset.ask, part.dataset.value || "");
    if (said === null) return;
    pick = JSON.stringify({ ...JSON.parse(pick), said });
  }
  trigger("click", { pick });
});
"""
# The boxes that are ticked, all of them, as JSON.
ON_LOAD_BOXES = """
element.addEventListener("change", () => {
  const ticked = [...element.querySelectorAll("[data-box]:checked")].map((box) => box.dataset.box);
  trigger("input", { pick: JSON.stringify(ticked) });
});
"""


def picked(event: gr.EventData) -> str:
    """The text that came with a click; it comes from the browser, so it may be anything."""
    told = event._data
    return plain(told.get("pick")) if isinstance(told, dict) else ""


def told_pick(event: gr.EventData) -> dict[str, str]:
    """A click that says more than one thing; {} for anything else."""
    try:
        found = json.loads(picked(event))
    except ValueError:
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def plain(value: object) -> str:
    """The choice in a list; Gradio passes on whatever it is sent."""
    return value if isinstance(value, str) else ""
