"""How the server is set up, before it serves: options, names, sockets, and what is wrong with what it was told."""

import importlib.util
import socket
from pathlib import Path

import pytest
from fvfast_dashboard import server
from streamlit import config

import fvfast.cli
from fvfast.errors import FvfastError


def test_every_option_is_one_that_streamlit_knows():
    known = config.get_config_options()
    given = server.options(("localhost",), False, "127.0.0.1", 8501)
    assert set(given) <= set(known)
    assert given["browser.gatherUsageStats"] is False
    assert given["server.fileWatcherType"] == "none"
    assert given["server.enableXsrfProtection"] is True
    assert given["server.enableCORS"] is True
    assert given["server.allowedHosts"] == ["localhost"]
    assert given["server.address"] == "127.0.0.1"


def test_what_a_server_goes_by():
    assert server.host_names("127.0.0.1", "127.0.0.1") == (("localhost", "127.0.0.1", "::1"), False)
    assert server.host_names("localhost", "127.0.0.2")[0][-1] == "127.0.0.2"
    names, literals = server.host_names("Work.example", "10.0.0.7")
    assert literals
    assert {"work.example", "10.0.0.7", "localhost", socket.gethostname().lower()} <= set(names)


def test_sockets_that_cannot_be_had():
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FvfastError, match=f"port {port} is taken"):
            server.listen("127.0.0.1", port)
    with pytest.raises(FvfastError, match=r"cannot listen on 192\.0\.2\.1"):  # an address that nobody has
        server.listen("192.0.2.1", 0)
    with pytest.raises(FvfastError, match="cannot listen on 'no such host'"):
        server.listen("no such host", 0)


def complaint(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        fvfast.cli.main(["dashboard", "--no-browser", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (2, "")
    assert len(err.splitlines()) == 1
    return err


def test_bad_input_is_one_sentence(capsys, monkeypatch):
    Path("file").touch()
    assert complaint(capsys, "--store", "file") == "fvfast: file is a file: --store takes a folder\n"
    assert complaint(capsys, "--results", "nowhere").startswith("fvfast: no folder nowhere: --results takes")
    assert "--port" in complaint(capsys, "--port", 70000)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "streamlit" else find(name))
    assert complaint(capsys) == "fvfast: the dashboard needs streamlit: pip install 'fvfast[dashboard]'\n"
