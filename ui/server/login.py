"""The password, asked of everybody: how fast it can be guessed does not depend on how many ask at once."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
from dataclasses import dataclass, field
from typing import Literal

PACE = 0.5  # seconds for each attempt of a stranger, one after the other: 7,200 an hour
MOST_WAITING = 20  # attempts; more are sent away
MOST_KNOWN = 1000  # addresses
LOGGED = 10  # of so many wrong attempts one is a line, after the first

Answer = Literal["in", "ask", "busy"]
log = logging.getLogger("uvicorn.error")


@dataclass
class Login:
    """auth: user:password. An address that knew it is not kept waiting, until a wrong guess comes from there."""

    auth: str
    _known: dict[str, None] = field(default_factory=dict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: int = 0
    _wrong: int = 0

    async def answer(self, authorization: str, address: str) -> Answer:
        if not authorization:
            return "ask"
        right = self._is_right(authorization)
        if right and address in self._known:
            return "in"
        if self._waiting >= MOST_WAITING:
            return "busy"
        self._waiting += 1
        try:
            async with self._turn:
                if not (right and address in self._known):  # somebody there may have logged in meanwhile
                    await asyncio.sleep(PACE)
        finally:
            self._waiting -= 1
        self._note(right, address)
        return "in" if right else "ask"

    def _is_right(self, authorization: str) -> bool:
        kind, _, code = authorization.partition(" ")
        try:
            told = base64.b64decode(code, validate=True)
        except (binascii.Error, ValueError):
            return False
        return kind.lower() == "basic" and hmac.compare_digest(told, self.auth.encode("utf-8"))

    def _note(self, right: bool, address: str) -> None:
        if right:
            if len(self._known) >= MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[address] = None
            return
        self._known.pop(address, None)
        self._wrong += 1
        if self._wrong % LOGGED == 1:
            log.warning("login: wrong password from %s (%s wrong attempts so far)", address, f"{self._wrong:,}")
