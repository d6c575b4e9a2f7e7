"""Images shown on their way: which, when, and that showing them changes nothing."""

import time
from itertools import pairwise
from typing import Any

import torch

import fvfast
from fvfast.previews import Preview, Watch


def test_previews_are_of_the_image_that_comes_of_it(tiny):
    seen: list[Preview] = []
    options: dict[str, Any] = {"size": 32, "steps": 6, "threads": 1}
    plain = fvfast.render(tiny, ["deep:1", "deep:2"], every=1, **options)

    def slowly(preview: Preview) -> None:
        seen.append(preview)
        time.sleep(0.05)

    watched = fvfast.render(tiny, ["deep:1", "deep:2"], preview=slowly, **options)
    assert torch.equal(watched.images, plain.images)
    assert {preview.row for preview in seen} == {0, 1}
    for preview in seen:
        step, image = plain.snapshots[preview.row][preview.step - 1]
        assert step == preview.step
        assert torch.equal(preview.image, image)
        torch.testing.assert_close(preview.history, plain.history[preview.row, : preview.step], rtol=0, atol=0)


def test_previews_are_rare(tiny):
    seen: list[float] = []
    fvfast.render(tiny, "deep:1", size=32, steps=400, preview=lambda _: seen.append(time.perf_counter()))
    gaps = [later - earlier for earlier, later in pairwise(seen)]
    assert len(seen) >= 1
    assert all(gap > 0.3 for gap in gaps)
    assert Watch(lambda _: None).interval <= 0.5  # and often enough to look alive


def test_a_dream_is_shown_after_every_step(tiny):
    from fvfast.dreaming import Dreamer, preset_with
    from fvfast.photographs import Photograph

    shown: list[torch.Tensor] = []
    photograph = Photograph(torch.rand(3, 64, 80))
    settings = preset_with("patterns", octaves=2, steps=2)
    with Dreamer(tiny, "deep", settings, tile=128) as dreamer:
        result = dreamer.dream(photograph, preview=shown.append)
    assert [tuple(picture.shape[-2:]) for picture in shown] == [size for size in result.sizes for _ in range(2)]
    assert torch.equal(shown[-1], result.image)
