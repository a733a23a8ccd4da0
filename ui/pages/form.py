"""Makes a control for every key of the schema, grouped by section."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from trainer.config.foreign.names import names_of
from ui.draft.fields import DATASET, FOLDER, UNSET, Field, above, all_fields, to_control
from ui.draft.labels import section_label
from ui.server.settings_page import place_of

NOISE_PAGE = ("noise", "timesteps")  # sections that have a page of their own
NOT_HERE = "not set here"  # whatever “All datasets” says, or the default
ENTRY_CHOICES = [(NOT_HERE, ""), ("yes", "yes"), ("no", "no")]


class Form:
    """The controls by key. Each key is placed once, wherever the layout asks for it first; see `rest`."""

    def __init__(self, suggestions: dict[str, Sequence[str]]) -> None:
        self.controls: dict[str, Component] = {}
        self.tabs: dict[str, tuple[str, ...]] = {}  # key -> the tabs that lead to it
        self._suggestions = suggestions
        self._path: tuple[str, ...] = ()

    def at(self, *tabs: str) -> None:
        """What is placed from here on lies behind these tabs."""
        self._path = tabs

    def place(self, keys: Iterable[str], *, lead: bool = False) -> None:
        """Puts the controls of these keys here, in a grid; `lead`: below each other, with room for their help."""
        with gr.Row(elem_classes="fields lead" if lead else "fields"):
            for key in keys:
                self.put(key)

    def put(self, key: str) -> Component:
        field = all_fields()[key]
        found = self._suggestions.get(key, field.suggestions)
        self.controls[key] = control(field, found, listed=key in self._suggestions)
        self.tabs[key] = self._path
        return self.controls[key]

    def rest(self, section: str) -> list[str]:
        """The keys of a section and of what is nested in it that are not placed yet."""
        inside = (f"{section}.",)
        return [
            f.key
            for f in all_fields().values()
            if f.key not in self.controls
            and (f.section == section or (f.key.startswith(inside) and section not in _LISTS))
        ]

    @property
    def ordered(self) -> list[Component]:
        """All controls in the order of `all_fields`, as the handlers get them."""
        return [self.controls[key] for key in all_fields()]


_LISTS = (DATASET, FOLDER)


# Sections that share a tab; a section that is not named here gets a tab of its own.
TABS = {
    "Model": ("run", "model"),
    "Training": ("training", "ema", "performance", "consistency", "slider"),
    "LoRA": ("lora", "embeddings"),
    "Optimizer": ("optimizer", "schedule"),
    "Loss": ("loss", "preservation"),
    "Samples": ("samples",),
    "Validation": ("validation",),
    "Saving": ("save", "logging"),
    "Images": ("data", "general", DATASET, FOLDER),
}


def tabs() -> dict[str, list[str]]:
    """The sections behind each tab of the settings, in the schema's order where that is free."""
    found = dict.fromkeys(
        f.section if f.section in _LISTS else f.section.partition(".")[0] for f in all_fields().values()
    )
    here = {name: [s for s in wanted if s in found] for name, wanted in TABS.items()}
    placed = {*NOISE_PAGE, *(s for wanted in TABS.values() for s in wanted)}
    return here | {section_label(s): [s] for s in found if s not in placed}


def control(field: Field, suggestions: Sequence[str], *, listed: bool = False) -> Component:
    """listed: it is a list even while there is nothing to choose."""
    value = to_control(field, None)
    about: dict[str, Any] = {
        "label": f"{field.label} ({field.unit})" if field.unit else field.label,
        "info": help_of(field),
        "elem_id": field.control_id,
        "elem_classes": ["field", f"kind-{field.kind}"],
        "min_width": 200,
    }
    if field.kind in ("switch", "presence") and not field.inherits:
        return gr.Checkbox(bool(value), **about)
    if field.kind == "switch":
        # A value from the file that is none of the choices is shown and reported, not refused.
        return gr.Dropdown(ENTRY_CHOICES, value="", allow_custom_value=True, **about)
    if field.kind == "choice" or suggestions or listed:
        return gr.Dropdown(_choices(field, suggestions), value=value, allow_custom_value=True, **about)
    if field.kind == "lines":
        return gr.Textbox(str(value), lines=4, max_lines=12, **about)
    shown = above(field) if field.inherits else ""
    return gr.Textbox(str(value), max_lines=1, placeholder=str(shown), **about)


def help_of(field: Field) -> str:
    """The help text with bounds and default, which the value hides once it is another one."""
    default = "" if field.inherits or field.kind not in ("number", "choice") else to_control(field, UNSET)
    facts = "; ".join(filter(None, [field.bounds, f"default {default}" if default != "" else ""]))
    return f"{field.help} ({facts})" if facts else field.help


def _choices(field: Field, suggestions: Sequence[str]) -> list[tuple[str, str]]:
    names = [str(c) for c in (field.choices or tuple(suggestions)) if c]
    blank = [(NOT_HERE, "")] if field.inherits else []
    return blank + [(name, name) for name in names]


def search_index(form: Form) -> list[dict[str, Any]]:
    """What the page searches: key, label, help and the tabs that lead to each control."""
    return [
        {
            "key": f.key,
            "id": f.control_id,
            "label": f.label,
            "help": f.help,
            "elsewhere": " ".join(names_of(f.key)),
            "section": section_label(f.section),
            "tabs": list(form.tabs[f.key]),
            "about": place_of(f.key),
        }
        for f in all_fields().values()
    ]
