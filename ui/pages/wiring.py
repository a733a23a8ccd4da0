"""How handlers are wired.

`style/answers.js` sees to it that among answers the newest click wins; so a click need not wait for the last one's.
"""

from __future__ import annotations

from typing import Any

# One at a time: pressed twice, it is done once.
ONCE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "once"}
# Every click counts, also one that comes before the answer to the last.
EACH: dict[str, Any] = {**ONCE, "trigger_mode": "multiple"}
# After something else, which has its own mode.
AFTER: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
