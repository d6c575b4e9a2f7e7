"""What a session does when memory runs out, and how it puts images into batches."""

import threading

import pytest
import torch
from torch import nn

import fvfast
from fvfast import objectives as o
from fvfast import outside, prepare
from fvfast.errors import FvfastError
from fvfast.models import Model


class Limited(nn.Module):
    """Runs out of memory with more than `room` images in the works at once, in one tensor or on several threads."""

    def __init__(self, room):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.room = room

    def forward(self, x):
        if x.requires_grad:
            with LOCK:
                BUSY.append(len(x))
                crowded = sum(BUSY) > self.room
            try:
                if crowded:
                    raise MemoryError
                MEETING.wait(0.02)  # long enough for the other threads to be here too
            finally:
                with LOCK:
                    BUSY.remove(len(x))
        assert x.max() < 99  # who looks at values is not recorded, so this runs at every step
        return self.conv(x)


LOCK, MEETING = threading.Lock(), threading.Event()
BUSY: list[int] = []


def limited(room):
    torch.manual_seed(0)
    return Model("limited", "none", Limited(room), size=32)


@pytest.mark.parametrize(("room", "said"), [(8, []), (4, [4]), (2, [4, 2]), (1, [4, 2, 1])])
def test_the_batch_is_halved_until_it_fits(room, said):
    sentences = []
    result = fvfast.render(limited(room), ["conv:0-7"], size=32, steps=3, batch=8, threads=1, notify=sentences.append)
    expected = [f"memory ran out: going on with {n} image{'s' if n > 1 else ''} at a time" for n in said]
    assert sentences == expected
    assert len(result) == 8
    plain = fvfast.render(limited(99), ["conv:0-7"], size=32, steps=3)
    # one batch or several: sums in another order, through three of Adam's normalised steps
    torch.testing.assert_close(result.images, plain.images, rtol=0, atol=1e-4)


def test_fewer_threads_run_where_the_batch_cannot_shrink(monkeypatch):
    monkeypatch.setattr("fvfast.session.crew_size", lambda threads: (4, 1))
    # What is known to need nobody else's turn runs beside others.
    monkeypatch.setattr("fvfast.outside.KNOWN", {*outside.KNOWN, __name__.partition(".")[0]})
    sentences = []
    result = fvfast.render(limited(1), ["conv:0-3"], size=32, steps=3, notify=sentences.append)
    assert sentences[-1] == "memory ran out: going on with 1 image at a time"
    assert result.images.equal(fvfast.render(limited(99), ["conv:0-3"], size=32, steps=3).images)


def test_memory_that_does_not_do_for_one_image():
    with pytest.raises(FvfastError, match="memory ran out with one image of 32 px: use a smaller --size"):
        fvfast.render(limited(0), "conv:0", size=32, steps=3, threads=99)


def test_the_images_of_a_coupled_objective_stay_together(tiny):
    diverse = o.channel("deep", 3) + o.diversity("deep_act")
    both = fvfast.render(tiny, [diverse, "deep:3"], size=32, steps=4, copies=3)
    assert both.targets == ["deep:3 + diversity(deep_act)"] * 3 + ["deep:3"] * 3
    # Alone, diversity is nothing: the sum is the channel. In company it is not.
    single = fvfast.render(tiny, [diverse, "deep:3"], size=32, steps=4)
    torch.testing.assert_close(single.images[0], single.images[1], rtol=0, atol=1e-5)
    assert not both.images[0].allclose(both.images[3], atol=1e-3)
    # The first of the copies begins as that alone does.
    assert both.objective_start[0] < single.objective_start[0]


def test_the_order_of_the_targets_is_the_order_of_the_images(tiny):
    # The longest run first, whatever their order: the results must not.
    result = fvfast.render(tiny, ["stem:1", "logits:2", "deep:3", "stem:0"], size=32, steps=2)
    assert result.targets == ["stem:1", "logits:2", "deep:3", "stem:0"]
    for i, target in enumerate(result.targets):
        assert result.images[i].equal(fvfast.render(tiny, target, size=32, steps=2).images[0])


def test_in_half_precision_too_an_image_does_not_depend_on_its_company(nets, halves, monkeypatch):
    """`mix` cannot be folded, which must not decide how many channels the stem of `early` sees."""
    seen = []
    original = prepare.prepare

    def note(*arguments, **options):
        fast = original(*arguments, **options)
        seen.append(fast.channels)
        return fast

    monkeypatch.setattr(prepare, "prepare", note)
    model = Model("shared", "none", nets.Shared(), size=32)
    options = {"size": 32, "steps": 4, "dtype": "bfloat16"}
    together = fvfast.render(model, ["early:0", "mix:0"], **options)
    alone = fvfast.render(model, "early:0", **options)
    assert seen == [3, 3]
    assert together.images[0].equal(alone.images[0])
