"""Puts the pages together."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ui.pages.dataset import DatasetPage
from ui.pages.form import Form, search_index
from ui.pages.noise import NoisePage
from ui.pages.queue import QueuePage
from ui.pages.runs import Runs
from ui.pages.setup import Setup
from ui.pages.train import Train
from ui.pages.try_result import Try
from ui.server.media import Media
from ui.style.theme import head
from ui.workspace import Workspace

PAGES = ("Setup", "Noise", "Dataset", "Train", "Runs", "Try", "Queue")
# On a phone, where the row of tabs is too narrow.
NAVIGATION = (
    "<nav id='pages-nav' aria-label='Pages'>"
    + "".join(f"<button type='button' data-tab='{name}'>{name}</button>" for name in PAGES)
    + "</nav>"
)


# Shown until it is done or skipped; the page's script has its steps.
TOUR = (
    "<div id='tour' class='note-box' hidden><p></p><button type='button' class='button' data-next>Next</button> "
    "<button type='button' class='link' data-skip>Skip the tour</button></div>"
)


@dataclass(frozen=True)
class App:
    """The page, and what its head needs."""

    blocks: gr.Blocks
    head: str


def build(workspace: Workspace, media: Media) -> App:
    form = Form({"model.base": workspace.bases(), "datasets[].subsets[].image_dir": workspace.folders()})
    setup = Setup(workspace, form)
    noise = NoisePage(workspace, media, setup)
    dataset = DatasetPage(workspace, media, setup)
    train = Train(workspace, media, setup)
    runs = Runs(workspace, media)
    tries = Try(workspace, media)
    queue = QueuePage(workspace)
    with gr.Blocks(
        title="Immiscible Trainer", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as blocks:
        setup.header()
        gr.HTML(TOUR)
        with gr.Tabs(elem_id="pages"):
            with gr.Tab("Setup"), gr.Row(elem_classes="split holds"):
                with gr.Column(scale=5, elem_classes="main"):
                    setup.basics()
                    settings = gr.Column()
                with gr.Column(scale=2, min_width=280, elem_classes="aside"):
                    setup.aside()
            with gr.Tab("Noise") as noise_tab:
                noise.build()
            with gr.Tab("Dataset"):
                dataset.build()
            with gr.Tab("Train"):
                train.build()
            with gr.Tab("Runs") as runs_tab:
                runs.build()
            with gr.Tab("Try") as try_tab:
                tries.build()
            with gr.Tab("Queue"):
                queue.build()
        gr.HTML(NAVIGATION)
        with settings:
            setup.all_settings()
        setup.wire(blocks)
        noise.wire(noise_tab)
        dataset.wire()
        train.wire(blocks)
        runs.wire(runs_tab)
        tries.wire(try_tab)
        queue.wire(train)
        tries.follow(train.ending)
        runs.follow(train.ending)
        runs.follow(train.variants.link)
        setup.follow(runs.table)
    return App(blocks, head(search_index(form)))
