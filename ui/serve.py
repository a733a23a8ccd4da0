"""Serves the pages: binds the port, puts the guard before everything, says where to look."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from trainer.errors import UserError
from ui.server.guard import Guard, is_local
from ui.server.uploads import Uploads
from ui.workspace import Workspace

if TYPE_CHECKING:
    import uvicorn

PORT = 7860
TRIES = 20  # ports that are looked at when none was asked for
MOST_UPLOAD = "50mb"


def main(
    root: Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    auth: str = "",
    without_login: bool = False,
    root_path: str = "",
    names: Sequence[str] = (),
    browser: bool = True,
) -> None:
    """Serves until Ctrl-C. Raises UserError where it must not or can't start."""
    check_login(host, auth, without_login=without_login)
    if not root.is_dir():
        raise UserError(
            f"{root}: there is no such folder. Name the one with your configs and images, or none for this one."
        )
    sock = bind(host, port)
    port = int(sock.getsockname()[1])
    print("Starting the user interface (this takes some seconds).", flush=True)
    server = make(Workspace(root.resolve()), host, port, auth=auth, root_path=root_path, names=names)
    address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}/"
    print(f"The user interface is at {address}  (Ctrl-C ends it; trainings go on without it.)", flush=True)
    if browser and is_local(host) and has_screen():
        webbrowser.open(address)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[sock])


def check_login(host: str, auth: str, *, without_login: bool) -> None:
    if auth and (":" not in auth or auth.startswith(":") or auth.endswith(":")):
        raise UserError("--auth: expected USER:PASSWORD.")
    if not is_local(host) and not auth and not without_login:
        raise UserError(
            f"--host: {host} can be reached from other machines, and whoever reaches the page can read and write files "
            "here. Give it a login with --auth USER:PASSWORD (or in the environment: IMMISCIBLE_UI_AUTH). "
            "If the network itself is closed, --no-auth starts without one."
        )


def bind(host: str, port: int | None) -> socket.socket:
    """A bound socket. Raises UserError where the port is taken or the address is not one of this machine's."""
    problem: OSError | None = None
    for candidate in [port] if port is not None else range(PORT, PORT + TRIES):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        if os.name != "nt":  # there it would let two servers share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host.strip("[]"), candidate))
            sock.listen(128)
        except OSError as error:
            sock.close()
            problem = error
            continue
        return sock
    raise UserError(f"--port: {host}:{port or PORT} cannot be used ({problem}). Try another --port.")


def make(
    workspace: Workspace, host: str, port: int, *, auth: str = "", root_path: str = "", names: Sequence[str] = ()
) -> uvicorn.Server:
    """The server, not started yet."""
    prepare_environment(workspace)
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware

    from ui import app as pages
    from ui.server import settings_page
    from ui.server.media import Media, add_route
    from ui.style.theme import css, theme

    # Weights do not get smaller, and streams must not wait.
    unpacked = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/octet-stream")
    media = Media(workspace.state)
    built = pages.build(workspace, media)
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_route(outer, media)
    settings_page.add_route(outer)
    gr.mount_gradio_app(
        outer, built.blocks, path="/", server_name=host, server_port=port, footer_links=[], run_history=False,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None}, root_path=root_path or None,
        allowed_paths=[], show_error=False, max_file_size=MOST_UPLOAD, ssr_mode=False, enable_monitoring=False,
        pwa=False, mcp_server=False, theme=theme(), css=css(), head=built.head,
    )  # fmt: skip
    # Gradio checks the paths that a request names only in an application that it has launched itself.
    built.blocks.has_launched = built.blocks.is_running = True
    outside = urlsplit(root_path).netloc
    packed = GZipMiddleware(outer, 2000, 5, exclude_content_types=unpacked)
    known = [*names, *([outside] if outside else [])]
    guarded = Guard(packed, host, port, known, auth, Uploads(workspace.state / "uploads"))
    # An open page holds a connection for ever; ending the server does not wait for it.
    config = uvicorn.Config(guarded, log_level="warning", timeout_graceful_shutdown=1, server_header=False)
    return uvicorn.Server(config)


def prepare_environment(workspace: Workspace) -> None:
    """Nothing in the environment may open what is closed here; uploads lie in the UI's own folder."""
    for name in [n for n in os.environ if n.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(workspace.state / "uploads")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def has_screen() -> bool:
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True
