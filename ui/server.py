"""Serves the page: who may connect, from where, and what may be read."""

from __future__ import annotations

import gradio as gr
import uvicorn
from fastapi import FastAPI

from ui import app as pages
from ui.theme import css, theme
from ui.workspace import Workspace


def application(workspace: Workspace, host: str, port: int, root_path: str = "") -> FastAPI:
    built = pages.build(workspace)
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    return gr.mount_gradio_app(
        outer, built.blocks, path="/", server_name=host, server_port=port, footer_links=[], run_history=False,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None}, root_path=root_path or None,
        show_error=False, max_file_size="50mb", ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False,
        theme=theme(), css=css(), head=built.head,
    )  # fmt: skip


def serve(workspace: Workspace, host: str, port: int) -> None:
    uvicorn.run(application(workspace, host, port), host=host, port=port, log_level="warning")
