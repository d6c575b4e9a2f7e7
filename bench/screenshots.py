"""Pictures of every page of the dashboard, light and dark, wide and narrow, into docs/images/dashboard.

    python -m bench.screenshots                 render a demonstration store if there is none yet, then take them
    python -m bench.screenshots --store DIR     of another store

The store holds real renders of the bundled network, small ones, with their histories; it is kept in build/, so that
the next run is quick. Needs Chromium: /usr/bin/chromium, or what FVFAST_CHROMIUM names.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import PIL.Image

import fvfast
from bench.record import ROOT
from fvfast import evidence, examples, keeping
from fvfast.store import Query, Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DEMO = ROOT / "build" / "demo" / "atlas"
OUT = ROOT / "docs" / "images" / "dashboard"
WIDTHS = (1440, 800)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
TALLEST = 2400  # px of a page that a picture shows
HERO = "_blocks.10:9"
# (targets, options) of the demonstration; what is in the store already is not rendered again.
DEMONSTRATION: tuple[tuple[list[str], dict[str, Any]], ...] = (
    (["_blocks.2:2", "_blocks.4:1,9", "_blocks.7:4,10,11", "_blocks.9:6", "_blocks.12:7,10,11"], {}),
    (["_blocks.10:0-15", "_blocks.14:4,9,11"], {}),
    (["logits:goldfish", "logits:daisy", "logits:cheeseburger"], {}),
    ([HERO, "_blocks.7:11"], {"recipe": "lucent", "steps": 192}),
    ([HERO, "_blocks.7:11"], {"recipe": "torch-dreams", "steps": 120}),
    ([HERO], {"recipe": "plain"}),
    ([HERO, "_blocks.7:11"], {"seed": 1}),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=DEMO)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", nargs="+", help="names of pages")
    parser.add_argument("--fill", action="store_true", help="only render what the store lacks")
    options = parser.parse_args()
    if options.store == DEMO:
        fill(DEMO)
    if options.fill:
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    with Store(options.store) as store:
        addresses = pages(store)
    wanted = {name: address for name, address in addresses.items() if not options.only or name in options.only}
    with serving(options.store) as url, browser() as chromium:
        for scheme in SCHEMES:
            for width in WIDTHS:
                context = chromium.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
                )
                for name, address in wanted.items():
                    page = context.new_page()
                    page.goto(url + address)
                    if name == "render":
                        begin(page)
                    shoot(page, width, options.out / f"{name}-{scheme}-{width}.webp")
                    page.close()
                context.close()
    total = sum(path.stat().st_size for path in options.out.glob("*.webp"))
    print(f"{len(list(options.out.glob('*.webp')))} pictures, {total / 1e6:.1f} MB in {options.out}")
    return 0


def fill(folder: Path, size: int = 144) -> None:
    """Render into a store what it lacks of the demonstration."""
    with Store(folder, write=True) as store:
        for targets, options in DEMONSTRATION:
            recipe, seed = options.get("recipe", "default"), options.get("seed", 0)
            there = {one.target for one in store.entries(Query(recipe=recipe)) if one.seed == seed}
            if all(_first(target) in there for target in targets):
                continue
            print(f"rendering {', '.join(targets)} {options or ''}", file=sys.stderr, flush=True)
            result = fvfast.render(target=targets, size=size, snapshots=keeping.SNAPSHOTS, **options)
            keeping.keep(store, result)
        (hero,) = (one for one in store.entries(Query(text=HERO, recipe="default")) if one.seed == 0)
        looked = bool(evidence.examples(store, hero))
    if not looked:  # in the renders themselves: they are pictures of one's own too
        examples.find(fvfast.load(), hero.layer, folder / "images", store=folder, top=8, neighbours=7)


def _first(target: str) -> str:
    return re.split(r"[,-](?=\d)|,", target)[0]


def pages(store: Store) -> dict[str, str]:
    """The name of each page, and the address that shows it at its best."""
    hero = {one.recipe["name"]: one.key for one in store.entries(Query(text=HERO)) if one.seed == 0}
    return {
        "overview": "",
        "render": "render",
        "gallery": "gallery",
        "feature": f"feature?key={hero['default']}",
        "compare": f"compare?a={hero['default']}&b={hero['lucent']}",
        "speed": "speed",
        "dream": "dream",
    }


@contextlib.contextmanager
def serving(store: Path) -> Iterator[str]:
    """A dashboard of a store; its address, with the last /."""
    command = [sys.executable, "-m", "fvfast.cli", "dashboard", "--store", store.name, "--port", "0", "--no-browser"]
    environment = {**os.environ, "XDG_CACHE_HOME": tempfile.mkdtemp()}  # nothing that was measured elsewhere
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=store.parent)
    try:
        assert server.stderr is not None
        said = server.stderr.readline()
        found = re.search(r"http://\S+", said)
        if not found:
            raise SystemExit(f"the dashboard did not start: {said}{server.stderr.read()}")
        url = found[0]
        with urllib.request.urlopen(url, timeout=30):
            pass
        yield url + "/"
    finally:
        server.terminate()
        server.wait(20)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = os.environ.get("FVFAST_CHROMIUM", "/usr/bin/chromium")
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


def begin(page: Page) -> None:
    """See that the page has something rendered to show; what one session has started, the next one sees too."""
    button = page.get_by_role("button", name="Render", exact=True)
    button.wait_for(timeout=60_000)
    page.wait_for_timeout(3000)
    if not page.locator("[data-testid=stImage] img").count():
        button.click()
        page.get_by_text("finished").first.wait_for(timeout=240_000)


def shoot(page: Page, width: int, path: Path) -> None:
    """Wait until a page has come to rest, make the window as tall as it, and take its picture."""
    page.mouse.move(0, 0)  # off whatever was clicked
    page.wait_for_selector("h1", timeout=60_000)
    settle(page)
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(TALLEST, max(720, height))})
    settle(page)
    picture = PIL.Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.save(path, quality=80, method=6)


def settle(page: Page) -> None:
    """Wait until nothing runs any more, and what was drawn has stayed for a while."""
    page.wait_for_timeout(600)
    page.wait_for_selector("[data-testid=stStatusWidget]", state="detached", timeout=90_000)
    page.wait_for_selector("[data-stale=true]", state="detached", timeout=90_000)
    page.wait_for_timeout(900)


if __name__ == "__main__":
    sys.exit(main())
