"""Puts the pages together."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ui.dataset_page import Dataset
from ui.form import Form, search_index
from ui.media import Media
from ui.noise_page import NoisePage
from ui.queue_page import QueuePage
from ui.runs_page import Runs
from ui.setup_page import Setup
from ui.theme import head
from ui.train_page import Train
from ui.try_page import Try
from ui.workspace import Workspace


@dataclass(frozen=True)
class App:
    """The page, and what its head needs."""

    blocks: gr.Blocks
    head: str


def build(workspace: Workspace, media: Media) -> App:
    form = Form({"model.base": workspace.bases(), "datasets[].subsets[].image_dir": workspace.folders()})
    setup = Setup(workspace, form)
    noise = NoisePage(workspace, media, setup)
    dataset = Dataset(workspace, media, setup)
    train = Train(workspace, media, setup)
    runs = Runs(workspace, media)
    tries = Try(workspace, media)
    queue = QueuePage(workspace)
    with gr.Blocks(
        title="Immiscible Trainer", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as blocks:
        setup.header()
        with gr.Tabs(elem_id="pages"):
            with gr.Tab("Setup"), gr.Row(elem_classes="split"):
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
        with settings:
            setup.all_settings()
        setup.wire(blocks)
        noise.wire(noise_tab)
        dataset.wire()
        train.wire(blocks)
        runs.wire(runs_tab)
        tries.wire(try_tab)
        queue.wire(train.timer, train.queue, train.saved, setup.inputs, [train.checked])
    return App(blocks, head(search_index(form)))
