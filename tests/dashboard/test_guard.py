"""Which requests reach the app: every header that gives a stranger away, and those that do not."""

import asyncio

import pytest
from fvfast_dashboard.guard import HEADERS, Guard, host_name

NAMES = ("localhost", "127.0.0.1", "::1")
OURS = ("host", "localhost:8501")


def refusal(*headers, literals=False):
    async def app(scope, receive, send):
        raise AssertionError("not to be called")

    return Guard(app, NAMES, literals).refusal(list(headers))


@pytest.mark.parametrize(
    "headers",
    [
        [OURS],
        [("host", "LOCALHOST")],
        [("host", "127.0.0.1:9000")],  # a tunnel's other end has another port
        [("host", "[::1]:8501")],
        [("host", "localhost.:8501")],
        [OURS, ("origin", "http://localhost:8501")],
        [OURS, ("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")],
        [OURS, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],  # a link in a mail
    ],
)
def test_our_own(headers):
    assert refusal(*headers) is None


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ([], "Host"),
        ([("host", "evil.example")], "Host"),
        ([("host", "localhost.evil.example:8501")], "Host"),
        ([("host", "localhost@evil.example")], "Host"),
        ([("host", "evil.example#localhost")], "Host"),
        ([("host", "localhost:x")], "Host"),
        ([("host", "10.0.0.7:8501")], "Host"),
        ([OURS, ("host", "evil.example")], "Host"),
        ([OURS, ("origin", "http://evil.example")], "origins"),
        ([OURS, ("origin", "null")], "origins"),
        ([OURS, ("origin", "http://localhost:3000")], "origins"),
        ([OURS, ("origin", "http://localhost:8501.evil.example")], "origins"),
        ([OURS, ("origin", "file://localhost:8501")], "origins"),
        ([OURS, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], "sites"),
    ],
)
def test_strangers(headers, why):
    assert why in (refusal(*headers) or "let through")


def test_any_address_will_do_where_the_server_listens_on_all():
    assert refusal(("host", "10.0.0.7:8501"), literals=True) is None
    assert refusal(("host", "evil.example"), literals=True) is not None


def test_host_names():
    assert [host_name(h) for h in ("A.b:1", "[::1]", "", "a/b", "a:99999")] == ["a.b", "::1", None, None, None]


def passed(kind, host):
    """What comes out of a guard before an app that accepts everything."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("nothing is read of what is refused")

    scope = {"type": kind, "headers": [(b"Host", host.encode())]}
    asyncio.run(Guard(app, NAMES)(scope, receive, send))
    return sent


def test_what_a_stranger_gets():
    start, body = passed("http", "evil.example")
    assert (start["status"], body["body"]) == (403, b"fvfast: this server does not go by that Host\n")
    assert passed("websocket", "evil.example") == [{"type": "websocket.close", "code": 1008}]
    (start,) = passed("http", "localhost")
    assert (start["status"], start["headers"]) == (200, [(b"a", b"b"), *HEADERS])
