"""The page to try a result: prompts drawn with the base and with the LoRA at several strengths, the same seeds."""

from __future__ import annotations

import html
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from trainer.errors import UserError
from trainer.run_dir import RunDir
from ui import compare, processes
from ui.media import Media
from ui.picks import plain
from ui.tell import told
from ui.workspace import Workspace

MOST_PROMPTS = 8
MOST_STRENGTHS = 8
SHOWN = 6  # tries below each other
SEPARATOR = " / "


@dataclass(frozen=True)
class Wish:
    """What is to be drawn, checked."""

    run: RunDir
    result: Path
    prompts: list[str]
    strengths: list[float]
    seed: int
    steps: int
    guidance: float

    def arguments(self, output: Path) -> list[str]:
        """Of the trainer's command; no text of a person can become an option."""
        full = self.result.is_dir()
        chosen = ["--set", f"model.base={self.result}"] if full else [f"--lora={self.result}"]
        strengths = ",".join(f"{s:g}" for s in self.strengths)
        numbers = {"seed": self.seed, "steps": self.steps, "guidance": self.guidance}
        settings = [part for key, value in numbers.items() for part in ("--set", f"samples.{key}={value}")]
        prompts = [f"--prompt={prompt}" for prompt in self.prompts]
        return [
            "sample",
            str(self.run.config),
            *chosen,
            f"--strength={strengths}",
            *settings,
            *prompts,
            f"--output={output}",
        ]


def results(workspace: Workspace) -> dict[str, tuple[RunDir, Path]]:
    """Everything that was trained, by the name it is chosen by."""
    found: dict[str, tuple[RunDir, Path]] = {}
    for name, run in workspace.runs().items():
        folders = [p.parent for p in sorted(run.path.glob("*/model_index.json"))]
        for path in [*compare.results(run), *folders]:
            found[f"{name}{SEPARATOR}{path.name}"] = (run, path)
    return found


def wish(workspace: Workspace, result: str, prompts: str, strengths: str, seed: str, steps: str, guidance: str) -> Wish:
    """Raises UserError with everything that is wrong."""
    problems = []
    found = results(workspace).get(plain(result))
    if found is None:
        problems.append("Result: choose one of the list.")
    texts = [line.strip() for line in (prompts or "").splitlines() if line.strip()]
    if not 1 <= len(texts) <= MOST_PROMPTS or any(len(text) > 2000 for text in texts):
        problems.append(f"Prompts: write 1 to {MOST_PROMPTS}, one on each line.")
    values = [_number(part) for part in re.split(r"[,\s]+", (strengths or "").strip()) if part]
    if not 1 <= len(values) <= MOST_STRENGTHS or any(v is None or abs(v) > 10 for v in values):
        problems.append(f"Strengths: expected 1 to {MOST_STRENGTHS} numbers such as 0, 0.5, 1; found {strengths!r}.")
    numbers = {}
    for name, text, low, high in (
        ("Seed", seed, 0, 2**63 - 1),
        ("Steps", steps, 1, 1000),
        ("Guidance", guidance, 0, 100),
    ):
        value = _number(str(text or ""))
        if value is None or not low <= value <= high:
            problems.append(f"{name}: expected a number from {low} to {high}, found {text!r}.")
        numbers[name] = value or 0
    if problems or found is None:
        raise UserError(problems)
    good = [value for value in values if value is not None]
    return Wish(*found, texts, good, int(numbers["Seed"]), int(numbers["Steps"]), numbers["Guidance"])


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value else None


class Try:
    """The components of the page."""

    def __init__(self, workspace: Workspace, media: Media) -> None:
        self.workspace, self.media = workspace, media

    def build(self) -> None:
        with gr.Row(elem_classes="split"):
            with gr.Column(scale=2, min_width=300), gr.Column(elem_classes="card"):
                gr.HTML("<h2>Try a result</h2>")
                field: dict[str, Any] = {"elem_classes": "field"}
                self.result = gr.Dropdown(
                    [], label="Result", elem_id="try-result", allow_custom_value=True,
                    info="A LoRA file (of any checkpoint) or a trained model.", **field,
                )  # fmt: skip
                self.prompts = gr.Textbox(
                    label="Prompts", lines=3, max_lines=10, elem_id="try-prompts", info="One on each line.", **field
                )
                self.strengths = gr.Textbox(
                    "0, 0.5, 1", label="Strengths", max_lines=1, elem_id="try-strengths",
                    info="One column each; 0 is the base model without the LoRA.", **field,
                )  # fmt: skip
                with gr.Row(elem_classes="fields three"):
                    self.seed = gr.Textbox("1", label="Seed", max_lines=1, elem_id="try-seed", min_width=60, **field)
                    self.steps = gr.Textbox(
                        "30", label="Steps", max_lines=1, elem_id="try-steps", min_width=60, **field
                    )
                    self.guidance = gr.Textbox(
                        "7.5", label="Guidance", max_lines=1, elem_id="try-guidance", min_width=60, **field
                    )
                with gr.Row(elem_classes="buttons"):
                    self.draw = gr.Button("Draw", variant="primary", size="sm", elem_id="try-draw")
                    self.cancel = gr.Button("Cancel", size="sm", elem_id="try-cancel", visible=False)
                self.progress = gr.HTML(elem_id="try-progress")
            with gr.Column(scale=5), gr.Column(elem_classes="card"):
                self.pictures = gr.HTML(elem_id="try-pictures")

    def wire(self, tab: gr.Tab) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        tab.select(self._fresh, [self.result, self.prompts], [self.result, self.prompts, self.pictures], **quiet)
        asked = [self.result, self.prompts, self.strengths, self.seed, self.steps, self.guidance]
        drawing = self.draw.click(self._draw, asked, [self.progress, self.cancel, self.pictures], **quiet)
        self.cancel.click(
            lambda: ("<p class='quiet'>Cancelled.</p>", gr.update(visible=False)), None, [self.progress, self.cancel],
            cancels=[drawing], **quiet,
        )  # fmt: skip

    def _fresh(self, chosen: str, prompts: str) -> list[Any]:
        found = results(self.workspace)
        names = list(found)
        value = plain(chosen) if plain(chosen) in found else (names[0] if names else "")
        if not prompts and value:
            written = compare.settings(found[value][0]).get("samples.prompts")
            prompts = "\n".join(str(text) for text in written[:MOST_PROMPTS]) if isinstance(written, list) else ""
        return [gr.update(choices=names, value=value), prompts, self._pictures()]

    def _draw(self, *asked: Any) -> Iterator[list[Any]]:
        wanted = told(wish, self.workspace, *asked)
        folder = self.workspace.state / "tries"
        folder.mkdir(parents=True, exist_ok=True)
        output = folder / f"{time.time_ns():020d}-{secrets.token_hex(2)}.png"
        yield ["<p class='quiet' role='status'>Loading the base ...</p>", gr.update(visible=True), gr.skip()]
        text = ""
        for text in processes.stream(processes.command(*wanted.arguments(output)), self.workspace.root):
            last = text.rstrip().rpartition("\n")[2]
            yield [f"<p class='quiet' role='status'>{html.escape(last)}</p>", gr.skip(), gr.skip()]
        if not output.is_file():
            told(_refuse, text)
        output.with_suffix(".txt").write_text(f"{asked[0]}, seed {wanted.seed}, {wanted.steps} steps", encoding="utf-8")
        yield ["", gr.update(visible=False), self._pictures()]

    def _pictures(self) -> str:
        """The newest tries, the newest first."""
        files = sorted((self.workspace.state / "tries").glob("*.png"), reverse=True)[:SHOWN]
        if not files:
            return (
                "<div class='note-box'>Choose a result, write a prompt and press <b>Draw</b>: a row for each prompt, a "
                "column for each strength, always from the same noise.</div>"
            )
        parts = []
        for file in files:
            note = file.with_suffix(".txt")
            text = note.read_text(encoding="utf-8") if note.is_file() else ""
            url = self.media.url("image", file)
            parts.append(
                f"<figure class='try'><a href='{url}' target='_blank' rel='noopener'>"
                f"<img src='{url}' alt='Prompts by strengths'></a><figcaption>{html.escape(text)}</figcaption></figure>"
            )
        return "".join(parts)


def _refuse(text: str) -> None:
    raise UserError([line for line in text.splitlines() if line.strip()][-8:] or "nothing was drawn.")
