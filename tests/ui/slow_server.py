"""The user interface with slow answers: each is held back by seconds, in turn by more and by less.

python -m tests.ui.slow_server FOLDER --port N --no-browser
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path
from typing import Any

import gradio as gr

from ui import serve

DELAYS = itertools.cycle((0.8, 0.3))  # seconds
answer = gr.Blocks.process_api


async def late(self: gr.Blocks, *args: Any, **kwargs: Any) -> dict[str, Any]:
    found = await answer(self, *args, **kwargs)
    await asyncio.sleep(next(DELAYS))
    return found


if __name__ == "__main__":
    gr.Blocks.process_api = late  # type: ignore[method-assign]
    serve.main(Path(sys.argv[1]), port=int(sys.argv[sys.argv.index("--port") + 1]), browser=False)
