"""The web server of the dashboard: Streamlit's app behind the guard, on a socket of our own."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.middleware import Middleware
from streamlit.starlette import App
from streamlit.web import bootstrap

from fvfast.errors import FvfastError
from fvfast_dashboard import jobs, settings
from fvfast_dashboard.guard import Guard
from fvfast_dashboard.theme import theme_options
from fvfast_dashboard.uploads import LARGEST_MB

LOCAL = ("localhost", "127.0.0.1", "::1")
FAREWELL_S = 3  # how long open pages may hold up the end


def serve(
    store: Path,
    results: Path | None,
    address: str = "127.0.0.1",
    port: int = 8501,
    browser: bool = True,
    code: bool = False,
) -> None:
    """Serve the dashboard until Ctrl-C or SIGTERM; its worker ends with it, with what it was at kept.

    store, results: the folders shown. address, port: to listen on; port 0 for any that is free. browser: whether to
    open one. code: whether pages may name Python modules and files on this machine. Raises FvfastError where the
    address cannot be had.
    """
    if store.exists() and not store.is_dir():
        raise FvfastError(f"{store} is a file: --store takes a folder")
    if results is not None and not results.is_dir():
        raise FvfastError(f"no folder {results}: --results takes the folder of measured results")
    listener = listen(address, port)
    found = str(listener.getsockname()[0])
    port = listener.getsockname()[1]
    os.environ[settings.STORE] = str(store)
    if results is not None:
        os.environ[settings.RESULTS] = str(results)
    os.environ[settings.CODE] = "1" if code else ""
    names, literals = host_names(address, found)
    bootstrap.load_config_options(options(names, literals, found, port))
    url = f"http://{'localhost' if literals else _shown(address)}:{port}"
    _announce(url, found, code)
    guard = Middleware(Guard, names=names, literals=literals)  # pyright: ignore[reportArgumentType]
    app = App(settings.SCRIPT, middleware=[guard], lifespan=_lifespan)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, ws_max_size=2**28, timeout_graceful_shutdown=FAREWELL_S
    )
    if browser:
        threading.Timer(0.3, webbrowser.open, [url]).start()
    with contextlib.closing(listener), contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def options(names: tuple[str, ...], literals: bool, address: str, port: int) -> dict[str, Any]:
    """Streamlit's options, which win over its configuration files and environment variables."""
    return {
        "server.address": address,
        "server.port": port,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.enableCORS": True,
        "server.corsAllowedOrigins": [],
        "server.enableXsrfProtection": True,
        "server.allowedHosts": ["*"] if literals else list(names),  # where any address will do, the guard says which
        "server.enableStaticServing": False,
        "server.maxUploadSize": LARGEST_MB,
        "browser.gatherUsageStats": False,
        "browser.serverAddress": "localhost",
        "global.developmentMode": False,
        **theme_options(),
    }


def listen(address: str, port: int) -> socket.socket:
    """A socket that listens. Raises FvfastError where the address or the port cannot be had."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise FvfastError(f"cannot listen on {address!r}: --address takes an address of this machine") from error
    listener = socket.socket(family, kind)
    try:
        if os.name != "nt":  # where it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise FvfastError(
                f"port {port} is taken, perhaps by another dashboard: name another with --port, or --port 0 for any "
                "that is free"
            ) from error
        if isinstance(error, PermissionError):
            raise FvfastError(f"port {port} is not for everyone to take: name one above 1023 with --port") from error
        raise FvfastError(
            f"cannot listen on {address} port {port} ({error}): choose others with --address, --port"
        ) from error
    return listener


def host_names(address: str, bound: str) -> tuple[tuple[str, ...], bool]:
    """What the server goes by: names, and whether any IP address will do. address: as named; bound: what it came to."""
    if ipaddress.ip_address(bound).is_loopback:
        return tuple(dict.fromkeys((*LOCAL, bound))), False
    own = (socket.gethostname(), socket.getfqdn())
    return tuple(dict.fromkeys((*LOCAL, address.lower(), bound, *(name.lower() for name in own)))), True


def _announce(url: str, bound: str, code: bool) -> None:
    print(f"fvfast: the dashboard is at {url} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    if not ipaddress.ip_address(bound).is_loopback:
        print(
            f"fvfast: WARNING: it listens on {bound}, not on this machine alone, and asks for no password: whoever "
            "reaches it can render and see what is in the store. Leave out --address to keep it to this machine.",
            file=sys.stderr,
            flush=True,
        )
    if code:
        print(
            "fvfast: WARNING: --allow-code lets whoever opens the dashboard import Python modules and read weights on "
            "this machine.",
            file=sys.stderr,
            flush=True,
        )


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@contextlib.asynccontextmanager
async def _lifespan(app: App) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        jobs.close()
