"""The dashboard as it is started and used: the server on its socket, and Chromium in front of it."""

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import PIL.Image
import pytest
from fvfast_dashboard import asking

from fvfast.store import Store

pytestmark = pytest.mark.browser

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 90_000


def until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


class Server:
    """`fvfast dashboard` as a process of its own."""

    def __init__(self, store, *arguments):
        """go: the file for which own_nets.Held waits."""
        self.store, self.go = store, store.with_name("go")
        command = [sys.executable, "-m", "fvfast.cli", "dashboard", "--no-browser", "--store", store, "--port", "0"]
        command += arguments
        environment = {**asking.environment(), "OWN_NETS_GO": str(self.go)}
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent / "fvfast"), environment["PYTHONPATH"]])
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        self.said = [self.process.stderr.readline()]
        found = re.search(r"http://\S+?:(\d+)", self.said[0])
        assert found, self.said[0] + self.process.stderr.read()
        self.url, self.port = found.group(0), int(found.group(1))
        until(self.answers)

    def answers(self):
        try:
            return self.get("/_stcore/health")[0] == 200
        except OSError:
            return False

    def get(self, path, host=None, **headers):
        """(status, body) of a request with these headers only."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.putrequest("GET", path, skip_host=True)
        for name, value in {"Host": host or f"localhost:{self.port}", **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        status = answer.status
        body = b"" if status == 101 else answer.read()
        connection.close()
        return status, body

    def memory(self):
        """Resident MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found
        return int(found.group(1)) / 1024

    def end(self, number=signal.SIGINT):
        """The exit code after a signal, or of the end before."""
        self.process.send_signal(number)
        try:
            return self.process.wait(40)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def started():
    """The servers of this module, one after another: all but the last were ended by a test."""
    found = []
    yield found
    for one in found:
        one.end()


@pytest.fixture
def server(started, tmp_path_factory):
    """One that serves; the same for all tests, until one of them ends it."""
    if not started or started[-1].process.poll() is not None:
        started.append(Server(tmp_path_factory.mktemp("served") / "kept", "--allow-code"))
    return started[-1]


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield found
        found.close()


@contextlib.contextmanager
def new_context(browser):
    """A browser that has seen nothing yet."""
    found = browser.new_context(viewport={"width": 1440, "height": 1000})
    found.set_default_timeout(PATIENCE_MS)
    yield found
    found.close()


@pytest.fixture
def context(browser):
    with new_context(browser) as found:
        yield found


# Who may talk to it ----------------------------------------------------------------------------------------

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize("path", ["/", "/render", "/_stcore/health", "/_stcore/host-config", "/media/x.png"])
def test_foreign_hosts_and_origins_are_refused_over_http(server, path):
    assert server.get(path, host="evil.example")[0] == 403
    assert server.get(path, Origin="http://evil.example")[0] == 403
    assert server.get(path, Origin="null")[0] == 403
    assert server.get(path)[0] != 403


def test_foreign_hosts_and_origins_are_refused_over_websockets(server):
    own = f"http://localhost:{server.port}"
    assert server.get("/_stcore/stream", host="evil.example", **UPGRADE)[0] == 403
    assert server.get("/_stcore/stream", host=f"evil.example:{server.port}", Origin=own, **UPGRADE)[0] == 403
    assert server.get("/_stcore/stream", Origin="http://evil.example", **UPGRADE)[0] == 403
    assert server.get("/_stcore/stream", Origin=own, **UPGRADE)[0] == 101


def test_it_listens_on_this_machine_only(server):
    assert server.url == f"http://127.0.0.1:{server.port}"
    port = f"{server.port:04X}"
    listening = [
        line.split()[1].split(":")[0]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port}") and line.split()[3] == "0A"
    ]
    assert listening == ["0100007F"]  # 127.0.0.1, and nothing else


def test_a_taken_port_is_one_sentence(server, tmp_path):
    command = [sys.executable, "-m", "fvfast.cli", "dashboard", "--no-browser", "--port", str(server.port)]
    found = subprocess.run(command, capture_output=True, text=True, env=asking.environment(), check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith(f"fvfast: port {server.port} is taken, perhaps by another dashboard")
    assert len(found.stderr.splitlines()) == 1


def test_elsewhere_is_said_loudly_and_sigterm_ends_it(tmp_path):
    found = Server(tmp_path / "kept", "--address", "0.0.0.0")
    try:
        assert found.process.stderr is not None
        warning = found.process.stderr.readline()
        assert warning.startswith("fvfast: WARNING: it listens on 0.0.0.0, not on this machine alone")
        assert found.get("/_stcore/health", host="10.1.2.3")[0] == 200
        assert found.get("/_stcore/health", host="evil.example")[0] == 403
    finally:
        found.end(signal.SIGTERM)
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", found.port), timeout=5):
        pass


# In the browser --------------------------------------------------------------------------------------------


def opened(context, server, path="/"):
    """A page that has drawn itself."""
    page = context.new_page()
    page.goto(f"http://localhost:{server.port}{path}")
    page.wait_for_function("document.querySelector('h1')")  # looks at every frame, a locator twice a second
    return page


def heading(page, text):
    page.get_by_role("heading", level=1, name=text, exact=True).wait_for()


def shown(image):
    """Wait until an image is not only there, but has its pixels."""
    image.wait_for()
    image.evaluate("one => one.decode()")
    assert image.evaluate("one => one.naturalWidth") > 0


def number(page, label, value):
    box = page.get_by_label(label, exact=True)
    box.fill(str(value))
    box.press("Tab")


def choose(page, model):
    """A model other than the first one, which alone has targets to begin with."""
    box = page.get_by_role("combobox", name=re.compile("Model"))
    box.fill(model)
    box.press("Enter")
    # Until the server has understood, what is on the page belongs to the model before.
    page.get_by_placeholder(re.compile("^LAYER:CHANNEL")).wait_for()


def target(page, text):
    box = page.get_by_role("combobox", name=re.compile("Targets"))
    box.fill(text)
    box.press("Enter")
    page.get_by_test_id("stMultiSelect").get_by_text(text, exact=True).first.wait_for()
    box.press("Escape")


def understood(page, words):
    """Wait until the server has understood what was filled in: the command line, which need not be open, says it."""
    page.wait_for_function(
        "words => [...document.querySelectorAll('code')].some(c => c.textContent.includes(words))", arg=words
    )


def start(page, model, targets, size=32, steps=3):
    """Fill in the page Render and press the button."""
    choose(page, model)
    for one in targets:
        target(page, one)
    number(page, "Size, px", size)
    number(page, "Steps", steps)
    understood(page, " ".join(["fvfast render", model, *targets, f"--size {size} --steps {steps}"]))
    page.get_by_role("button", name="Render", exact=True).click()


def kept(server):
    try:
        with Store(server.store) as store:
            return store.entries()
    except Exception:
        return []


def test_a_feature_from_choice_to_comparison(server, context, browser):
    page = opened(context, server, "/render")
    start(page, "own_nets:Held", ["conv:1", "conv:2"], steps=120)
    page.get_by_test_id("stProgress").first.wait_for()
    page.get_by_text(re.compile(r"\d+ of 240 steps")).first.wait_for()
    page.get_by_text(re.compile(r"^step \d+$")).first.wait_for()  # the picture on its way
    assert not kept(server)
    server.go.touch()
    page.get_by_text(re.compile(r"^conv:1 · ")).first.wait_for()  # and when it is done
    keys = {entry.target: entry.key for entry in kept(server)}
    assert set(keys) == {"conv:1", "conv:2"}

    page.get_by_role("link", name="See it in the gallery").click()
    heading(page, "Gallery")
    page.get_by_role("img", name="conv:1", exact=True).click()
    heading(page, "conv:1")
    shown(page.get_by_test_id("stImage").locator("img"))
    link = f"http://localhost:{server.port}/feature?key={keys['conv:1']}"
    page.wait_for_url(link)
    page.get_by_role("button", name="Compare", exact=True).click()
    heading(page, "Compare")
    page.wait_for_url(re.compile(f"[?]a={keys['conv:1']}&b={keys['conv:2']}$"))

    page.get_by_role("link", name="Gallery", exact=True).click()
    heading(page, "Gallery")
    for target in ("conv:2", "conv:1"):
        page.get_by_role("checkbox", name=f"Select {target}", exact=True).check()
    page.get_by_text("2 selected").wait_for()
    page.get_by_role("button", name="Compare", exact=True).click()
    heading(page, "Compare")
    page.get_by_text("PSNR").first.wait_for()
    page.wait_for_url(re.compile("[?]a=.*&b="))
    assert all(key in page.url for key in keys.values())
    assert not page.get_by_test_id("stException").count()

    with new_context(browser) as other:  # the address is a link that stays
        feature = opened(other, server, link.rpartition(str(server.port))[2])
        heading(feature, "conv:1")
        shown(feature.get_by_test_id("stImage").locator("img"))
        assert not feature.get_by_test_id("stException").count()


def opened_thrice(context, server, path):
    """A page that has drawn itself, and the seconds that took: the middle one of three times."""
    seconds = []
    while True:
        started = time.perf_counter()
        page = opened(context, server, path)
        seconds.append(time.perf_counter() - started)
        if len(seconds) == 3:
            return page, statistics.median(seconds)
        page.close()


def test_a_second_session_stays_responsive_and_a_closed_tab_stops_nothing(server, context, browser):
    before = len(kept(server))
    page, alone = opened_thrice(context, server, "/render")
    start(page, "own_nets:Slow", ["conv:2"], size=64, steps=3000)
    page.get_by_text(re.compile(r"\d+ of 3000 steps")).first.wait_for()
    page.close()
    with new_context(browser) as other:
        second, beside = opened_thrice(other, server, "/render")
        second.get_by_text(re.compile(r"\d+ of 3000 steps")).first.wait_for()  # it goes on without its tab
        assert beside < max(3.0, 3 * alone), f"{beside:.2f} s beside a render, {alone:.2f} s alone"
        second.get_by_role("button", name="Cancel").click()
        entries = until(lambda: len(kept(server)) > before and kept(server))
    (entry,) = [e for e in entries if e.size == 64]
    assert 0 < entry.steps < 3000
    print(f"page: {alone:.2f} s alone, {beside:.2f} s beside a render")


def test_reruns_leave_what_is_open_open_and_memory_flat(server, context):
    page = opened(context, server, "/render")
    page.get_by_text("The same on the command line and in Python").click()
    choose(page, "own_nets:Slow")
    page.get_by_text("Add a target first.").wait_for()
    target(page, "conv:1")
    page.get_by_text("fvfast render own_nets:Slow conv:1").wait_for()

    def rerun(times):
        for at in range(times):
            number(page, "Steps", 100 + at)
            understood(page, f"--steps {100 + at} ")

    rerun(5)  # what is imported and kept at first
    before = server.memory()
    rerun(20)
    grown = server.memory() - before
    assert grown < 12, f"{grown:.1f} MiB more after 20 reruns"
    print(f"20 reruns: {grown:+.1f} MiB at {before:.0f} MiB")
    assert page.get_by_text("fvfast render own_nets:Slow conv:1").is_visible()


def test_a_photograph_is_dreamt_over(server, context, tmp_path):
    PIL.Image.effect_noise((72, 64), 90).convert("RGB").save(tmp_path / "me.png")
    page = opened(context, server, "/dream")
    page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(tmp_path / "me.png")
    page.get_by_text("me.png, 72x64").wait_for()
    page.get_by_role("button", name="Dream", exact=True).click()
    page.get_by_text(re.compile("objective .* to ")).first.wait_for()
    page.get_by_role("button", name="Download").first.wait_for()
    assert not page.get_by_test_id("stException").count()


def test_ctrl_c_ends_the_server_and_its_worker_with_what_there_is(server, context):
    before = {entry.key for entry in kept(server)}
    page = opened(context, server, "/render")
    start(page, "own_nets:Slow", ["conv:1"], steps=5000)
    page.get_by_text(re.compile(r"\d+ of 5000 steps")).first.wait_for()
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    children = [child for task in tasks for child in task.read_text().split()]
    assert children
    assert server.end() == 0
    (entry,) = [entry for entry in kept(server) if entry.key not in before]
    assert entry.note.startswith("stopped after")
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)
