"""Who may talk to the server: a check of every request, HTTP or WebSocket, before Streamlit sees it.

A page from elsewhere that a browser has open can send requests to this machine: under a name of its own that resolves
to 127.0.0.1 (DNS rebinding, which the `Host` header gives away), or across origins (which `Origin` and
`Sec-Fetch-Site` give away). Streamlit itself looks at WebSockets only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What every answer carries: nobody may frame the pages, guess at types, or learn which feature was looked at.
HEADERS = (
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)


class Guard:
    """An ASGI middleware that refuses requests with a foreign `Host` or `Origin`."""

    def __init__(self, app: ASGIApp, names: Iterable[str], literals: bool = False) -> None:
        """names: host names that the server goes by. literals: whether any IP address will do as well, as where the
        server listens on all of a machine's; an address cannot be rebound, names can."""
        self.app, self.names, self.literals = app, frozenset(name.lower() for name in names), literals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self.refusal(
            [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        )
        if refusal is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: the client sees a 403
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": f"fvfast: {refusal}\n".encode()})

    def refusal(self, headers: list[tuple[str, str]]) -> str | None:
        """Why a request is refused; None where it is not. headers: (name in lower case, value)."""

        def values(name: str) -> list[str]:
            return [value for header, value in headers if header == name]

        hosts = values("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return "this server does not go by that Host"
        for origin in values("origin"):
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or parts.netloc.lower() != hosts[0].lower():
                return "requests from other origins are refused"
        if values("sec-fetch-site") == ["cross-site"] and values("sec-fetch-mode") != ["navigate"]:
            return "requests from other sites are refused"  # following a link from elsewhere is fine
        return None

    def _is_ours(self, host: str) -> bool:
        name = host_name(host)
        if name is None:
            return False
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.literals


def host_name(host: str) -> str | None:
    """The name in a `Host` header, in lower case, without its port; None where it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname, parts.port
    except ValueError:
        return None
    if not name or parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return name.rstrip(".")


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
        await send(message)

    return wrapped
