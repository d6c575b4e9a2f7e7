"""What only a browser tells: how soon a large gallery is there, and that the wipe follows the hand."""

import dataclasses
import hashlib
import os
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from fvfast import blobs
from fvfast.store import Store
from tests.fvfast.sketch_store import made

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not Path(os.environ.get("FVFAST_CHROMIUM", "/usr/bin/chromium")).exists(), reason="needs Chromium"
    ),
]
MANY, ON_A_PAGE = 1200, 500


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of a dashboard over many renders, a browser, and two keys."""
    pytest.importorskip("playwright")
    from bench import screenshots

    folder = tmp_path_factory.mktemp("site") / "atlas"
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(ON_A_PAGE):
        coarse = PIL.Image.fromarray(random.integers(0, 255, (12, 12, 3), dtype=np.uint8))
        picture = coarse.resize((96, 96), PIL.Image.Resampling.BICUBIC)
        pictures.append((blobs.encode(picture, "png"), blobs.thumbnail(picture)))
    renders = []
    for number in range(MANY):
        one = made(number)
        data, small = pictures[number % ON_A_PAGE]
        files = {"image": blobs.address("images", data, "png"), "thumbnail": blobs.address("thumbnails", small, "webp")}
        key = hashlib.sha256(str(number).encode()).hexdigest()
        renders.append(dataclasses.replace(one, entry=dataclasses.replace(one.entry, key=key, **files)))
        renders[-1] = dataclasses.replace(renders[-1], image=data, thumbnail=small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)  # nothing here has to outlast a power cut
        with Store(folder, write=True) as store:
            store.add(renders)
    with screenshots.serving(folder) as url, screenshots.browser() as browser:
        yield url, browser, [one.entry.key for one in renders[:2]]


def test_a_page_of_500_is_usable_within_three_seconds(site):
    url, browser, _ = site
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(url + "gallery")
    page.locator(".tile img[src]").first.wait_for(timeout=60_000)
    started = time.perf_counter()
    page.get_by_text("500", exact=True).click()
    page.locator(".tile").nth(499).wait_for(state="attached")
    page.locator(".tile .box").nth(2).check(force=True)
    seconds = time.perf_counter() - started
    print(f"500 features: {seconds:.2f} s")
    assert seconds < 3
    for at in range(3, 7):  # while the page still runs for the ticks before
        page.wait_for_timeout(200)
        page.locator(".tile .box").nth(at).check(force=True)
    page.get_by_text("5 selected").wait_for()
    assert page.locator(".tile .box:checked").count() == 5
    loaded = page.locator(".tile img[src]").count()
    assert 0 < loaded < 500  # those near the window, no others
    page.locator(".tile a").nth(5).click()
    page.get_by_text("At the start").wait_for()
    page.wait_for_url("**/feature?key=*")
    page.close()


def test_the_wipe_follows_mouse_and_keys(site):
    url, browser, (a, b) = site
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{url}compare?a={a}&b={b}")
    line = page.get_by_role("slider", name="Wipe between the two images")
    line.wait_for(timeout=60_000)
    page.locator(".wipe .left").evaluate("image => image.decode()")  # it has its height from now on
    assert line.get_attribute("aria-valuenow") == "50"
    box = page.locator(".wipe").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
    page.mouse.up()
    assert line.get_attribute("aria-valuenow") == "25"
    assert page.locator(".wipe .left").evaluate("e => getComputedStyle(e).clipPath").startswith("inset(0px 75%")
    line.press("ArrowRight")
    assert line.get_attribute("aria-valuenow") == "27"
    line.press("End")
    assert line.get_attribute("aria-valuenow") == "100"
    page.close()
