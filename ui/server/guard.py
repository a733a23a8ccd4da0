"""Stands before every request: the right host, the right origin, the right password, not too big.

Gradio's own checks are not enough: its CORS layer refuses nothing, and its endpoints answer whoever reaches them. So a
web page that the user happens to visit could otherwise start trainings or fill the disk.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.server.login import Login
from ui.server.uploads import UPLOAD, NoRoomError, Uploads

LOCAL = ("127.0.0.1", "localhost", "[::1]")
MOST_BODY = 64 * 1024 * 1024  # bytes; uploads of images come file by file
# Gradio's ways to files and other servers. The page needs none of them: its pictures come from ui.server.media.
CLOSED = re.compile(
    r"(^|.*/gradio_api)/+(file|proxy|stream|component_server|deep_link|custom_component|dev|vibe|process_recording|runs)\b"
)

# Nothing may be loaded from elsewhere, and nobody may put the page into a frame. Gradio compiles its templates, so it
# needs scripts made from text.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'; base-uri 'self'; "
    "form-action 'self'; object-src 'none'"
)
HEADERS = (
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class TooBigError(Exception):
    """A body of more than MOST_BODY bytes."""


def is_local(host: str) -> bool:
    """Whether a server bound to this address can only be reached from its own machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass
class Guard:
    """An ASGI application around another one.

    host, port: what the server is bound to; names: further names it is known by, as a proxy's; auth: user:password;
    uploads: where they lie, to be kept within bounds.
    """

    app: ASGIApp
    host: str
    port: int
    names: Iterable[str] = ()
    auth: str = ""
    uploads: Uploads | None = None
    _hosts: set[str] = field(init=False)
    _login: Login = field(init=False)

    def __post_init__(self) -> None:
        self._login = Login(self.auth)
        known = set(LOCAL) if is_local(self.host) else {*LOCAL, socket.gethostname().lower(), self.host.lower()}
        self._hosts = {f"{name}:{self.port}" for name in known}
        self._hosts |= {n for name in self.names for n in (name.lower(), f"{name.lower()}:{self.port}")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the page uses no web sockets
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused:
            await _answer(send, 403, refused)
            return
        known = await self._login.answer(headers.get("authorization", ""), _address(scope)) if self.auth else "in"
        told = headers.get("content-length", "")
        size = int(told) if told.isdigit() else MOST_BODY
        if known == "busy":
            await _answer(send, 429, "too many attempts to log in; try again in a minute")
        elif known == "ask":
            ask = (b"www-authenticate", b'Basic realm="Immiscible Trainer", charset="UTF-8"')
            await _answer(send, 401, "log in", ask)
        elif size > MOST_BODY:
            await _answer(send, 413, "too big")
        elif self.uploads is not None and UPLOAD.match(scope["path"]):
            await self._take_in(self.uploads, size, scope, receive, send)
        else:
            await self._pass_on(scope, receive, send)

    async def _take_in(self, uploads: Uploads, size: int, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with uploads.receiving(size):
                await self._pass_on(scope, receive, send)
        except NoRoomError:
            await _answer(send, 507, "there is no room for more uploads; they are removed after a day")

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> str:
        """Why a request is refused, or ""."""
        if CLOSED.match(scope["path"]):
            return "nothing is to be found here"
        host = headers.get("host", "").lower()
        if not (host in self._hosts or (not is_local(self.host) and _is_address(host, self.port))):
            return "this server is not known by that host name"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host:
            return "requests from other sites are refused"
        visit = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not visit:
            return "requests from other sites are refused"
        return ""

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, began = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MOST_BODY:
                raise TooBigError
            return message

        async def with_headers(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                headers = list(message.get("headers", []))
                if not any(name.lower() == b"content-security-policy" for name, _ in headers):
                    headers.append((b"content-security-policy", POLICY.encode()))
                message = {**message, "headers": [*headers, *HEADERS]}
            await send(message)

        try:
            await self.app(scope, counted, with_headers)
        except TooBigError:
            if not began:
                await _answer(send, 413, "too big")


def _address(scope: Scope) -> str:
    """Of whoever asks: the peer's, which it cannot choose as it could a header."""
    peer = scope.get("client")
    return str(peer[0]) if peer else ""


def _is_address(host: str, port: int) -> bool:
    """Whether a Host header is a bare IP address with our port: no other site can be behind such a name."""
    name, _, its_port = host.rpartition(":")
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return its_port == str(port)


async def _answer(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    kind = (b"content-type", b"text/plain; charset=utf-8")
    await send({"type": "http.response.start", "status": status, "headers": [kind, *headers, *HEADERS]})
    await send({"type": "http.response.body", "body": f"{status}: {text}\n".encode()})
