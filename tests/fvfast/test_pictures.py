"""Pictures from Python: whatever holds them, they mean the same wherever a picture is taken."""

import io
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import fvfast
from fvfast import objectives as o
from fvfast import photographs
from fvfast.errors import FvfastError
from fvfast.seeded import Comparison

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
PIXELS[0, :2] = [[0, 0, 0], [255, 255, 255]]  # what floats and wide integers mean is told by their largest
COLOUR = torch.from_numpy(PIXELS / 255.0).float().permute(2, 0, 1)
GREYS = np.asarray(PIL.Image.fromarray(PIXELS).convert("L"))
GREY = torch.from_numpy(GREYS / 255.0).float().expand(3, -1, -1)
DEEP = GREYS.astype(np.uint16) * 257
MASK = torch.from_numpy(GREYS > 100).float().expand(3, -1, -1)


def pil(mode):
    return PIL.Image.fromarray(PIXELS).convert(mode)


def opened(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return PIL.Image.open(buffer)


def turned(orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return opened(pil("RGB"), "PNG", exif=exif)


def assert_taken(source, expected, tolerance=1e-6):
    image = photographs.take(source).image
    assert (image.dtype, image.device.type, image.requires_grad) == (torch.float32, "cpu", False)
    torch.testing.assert_close(image, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("picture", "expected", "tolerance"),
    [
        (pil("RGB"), COLOUR, 1e-6),
        (pil("RGBA"), COLOUR, 1e-6),
        (pil("RGBA").convert("RGBa"), COLOUR, 1e-6),
        (pil("L"), GREY, 1e-6),
        (pil("LA"), GREY, 1e-6),
        (pil("LA").convert("La"), GREY, 1e-6),
        (pil("CMYK"), COLOUR, 0.02),
        (pil("YCbCr"), COLOUR, 0.02),
        (PIL.Image.fromarray(GREYS > 100), MASK, 0),
        (PIL.Image.fromarray(GREYS).convert("P"), GREY, 1e-6),
        (PIL.Image.fromarray(DEEP), GREY, 1e-6),
        (PIL.Image.frombytes("I;16B", (48, 40), DEEP.astype(">u2").tobytes()), GREY, 1e-6),
        (opened(PIL.Image.fromarray(DEEP), "PNG"), GREY, 1e-6),
        (PIL.Image.fromarray(GREYS.astype(np.int32)), GREY, 1e-6),
        (PIL.Image.fromarray(DEEP.astype(np.int32)), GREY, 1e-6),
        (PIL.Image.fromarray(GREYS.astype(np.float32)), GREY, 1e-6),
        (PIL.Image.fromarray(GREYS.astype(np.float32) / 255), GREY, 1e-6),
        (turned(3), COLOUR.flip(1, 2), 1e-6),
        (turned(6), COLOUR.rot90(-1, (1, 2)), 1e-6),
    ],
    ids=lambda value: f"{value.mode}-{value.format}" if isinstance(value, PIL.Image.Image) else "",
)
def test_pil_images_of_every_mode(picture, expected, tolerance):
    assert_taken(picture, expected, tolerance)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (PIXELS, COLOUR),
        (PIXELS.transpose(2, 0, 1), COLOUR),
        (PIXELS[None], COLOUR),
        (PIXELS[::-1, ::-1], COLOUR.flip(1, 2)),
        (np.dstack([PIXELS, np.full((40, 48), 9, np.uint8)]), COLOUR),
        (GREYS, GREY),
        (GREYS[..., None], GREY),
        (GREYS[None], GREY),
        (GREYS > 100, MASK),
        (DEEP, GREY),
        (DEEP.astype(">u2"), GREY),
        (DEEP.astype(np.int64), GREY),
        *((PIXELS.astype(kind), COLOUR) for kind in ("i2", "i4", "i8", "u4", "u8", "f2", ">f4", "f8", "g")),
        *((PIXELS.astype(kind) / kind(255), COLOUR) for kind in (np.float32, np.float64, np.longdouble)),
    ],
)
def test_arrays_of_every_layout_and_type(numbers, expected):
    assert_taken(numbers, expected)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (COLOUR, COLOUR),
        (COLOUR[None], COLOUR),
        (COLOUR.permute(1, 2, 0), COLOUR),
        (COLOUR[0], COLOUR[:1].expand(3, -1, -1)),
        (COLOUR.clone().requires_grad_(), COLOUR),
        (torch.nn.Parameter(COLOUR.double()), COLOUR),
        (COLOUR[:, ::2, ::3], COLOUR[:, ::2, ::3]),
        (COLOUR * (1 + 1e-6) - 1e-7, COLOUR),
        (torch.from_numpy(GREYS > 100), MASK),
        *((torch.from_numpy(PIXELS).to(kind), COLOUR) for kind in (torch.uint8, torch.int16, torch.int64)),
        *((torch.from_numpy(PIXELS).to(kind), COLOUR) for kind in (torch.half, torch.float32, torch.float64)),
        (torch.from_numpy(DEEP), GREY),
    ],
)
def test_tensors_of_every_layout_and_type(numbers, expected):
    assert_taken(numbers, expected, 3e-6)


def test_low_precision_is_no_reason_to_read_a_picture_otherwise():
    for kind in (torch.half, torch.bfloat16):
        assert_taken(COLOUR.to(kind), COLOUR, 0.003)
    with torch.inference_mode():
        inside = COLOUR.clone()
    assert_taken(inside, COLOUR)


def test_a_picture_is_a_copy_and_a_fourth_channel_its_opacity():
    mine = COLOUR.clone()
    taken = photographs.take(mine)
    mine.zero_()
    torch.testing.assert_close(taken.image, COLOUR)
    assert taken.alpha is None
    opacity = torch.linspace(0, 1, 48).expand(1, 40, -1)
    taken = photographs.take(torch.cat([COLOUR, opacity]))
    assert taken.alpha is not None
    assert np.abs(np.asarray(taken.alpha) / 255 - opacity[0].numpy()).max() < 0.003
    assert photographs.take(torch.cat([COLOUR, torch.ones(1, 40, 48)])).alpha is None
    assert photographs.take(pil("RGBA")).alpha is None


def closed():
    picture = opened(pil("RGB"), "PNG")
    picture.close()
    return picture


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ((COLOUR - 0.45) / 0.22, "must be 0..1 or 0..255, not -2.0.*: undo what normalised it first"),
        (PIXELS.astype(np.int16) - 128, "not -128..127: undo what normalised it"),
        (COLOUR * 1.08, "values up to 1.08 is neither in 0..1 nor in 0..255: clamp it to 1"),
        (COLOUR * 2.6, "values up to 2.6 is neither"),
        (PIXELS * 2.0, "values up to 510 is neither in 0..1 nor in 0..255: scale it"),
        (PIL.Image.fromarray(GREYS.astype(np.int32) * 2**20), "neither 8 nor 16 bits deep"),
        ((GREYS > 100).astype(int), "the integers 0 and 1 may be a mask or almost black"),
        (COLOUR * float("nan"), "NaN or infinity among them"),
        (torch.full((3, 40, 40), float("inf")), "NaN or infinity among them"),
        (np.zeros((0, 40, 3)), r"\[0, 40, 3\] is empty"),
        (PIL.Image.new("RGB", (0, 4)), "0x4 px is empty"),
        (np.zeros((40, 40, 5)), r"channels first or last, not \[40, 40, 5\]"),
        (np.zeros(40), r"channels first or last, not \[40\]"),
        (torch.zeros(1, 1, 3, 40, 40), r"not \[1, 1, 3, 40, 40\]"),
        (torch.zeros(3, 4, 3), r"\[3, 4, 3\] may have its channels first or last: give a PIL image"),
        (np.zeros((1, 40, 4)), r"\[1, 40, 4\] may have its channels first or last"),
        (torch.zeros(2, 3, 40, 40), "are 2 pictures where one is needed: give one of them"),
        (COLOUR + 0j, "a dense tensor of real numbers, not a torch.complex64"),
        (COLOUR.to_sparse(), "a dense tensor of real numbers"),
        (torch.zeros(3, 40, 40, device="meta"), "not a meta tensor"),
        (PIXELS.astype(object), "real numbers, not object"),
        (PIXELS + 0j, "real numbers, not complex128"),
        (PIXELS.tolist(), "a picture must be a path, a PIL image, an array or a tensor, not list"),
        (None, "not NoneType"),
        (b"a.png", "not bytes"),
        (closed(), "the PIL image cannot be read as a picture"),
    ],
)
def test_what_can_be_read_in_two_ways_or_in_none_is_a_sentence(source, sentence):
    with pytest.raises(FvfastError, match=sentence) as caught:
        photographs.take(source)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


SOURCES = {
    "PIL": pil("RGB"),
    "array": PIXELS,
    "tensor": torch.from_numpy(PIXELS).permute(2, 0, 1).float(),
    "photograph": photographs.Photograph(COLOUR),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_way_in_takes_them(tiny, source):
    middle = photographs.square(COLOUR, 32)
    started = fvfast.render(tiny, "deep:3", size=32, steps=1, lr=1e-9, start=source)
    torch.testing.assert_close(started.images[0], middle, rtol=0, atol=5e-3)
    quick: dict[str, Any] = {"octaves": 1, "steps": 1, "strength": 1e-6, "tile": 128}
    torch.testing.assert_close(fvfast.dream(source, tiny, "deep", **quick).image, COLOUR, rtol=0, atol=1e-4)
    fvfast.dream(COLOUR, tiny, "deep", guide=source, **quick)
    for objective in (o.inversion("deep", source), o.caricature("deep", source)):
        assert isinstance(objective, Comparison)
        torch.testing.assert_close(objective.picture.pixels, COLOUR)
    accentuation = o.accentuation(o.channel("deep", 1), "stem", source)
    assert accentuation.start is not None
    torch.testing.assert_close(accentuation.start.pixels, COLOUR)


@pytest.mark.parametrize("source", [COLOUR - 0.5, PIXELS.tolist(), torch.zeros(3, 40, 3)])
def test_every_way_in_refuses_what_is_none(tiny, source):
    ways = (
        lambda: fvfast.render(tiny, "deep:3", size=32, steps=1, start=source),
        lambda: fvfast.dream(source, tiny, "deep"),
        lambda: fvfast.dream(COLOUR, tiny, "deep", guide=source),
        lambda: o.inversion("deep", source),
        lambda: o.caricature("deep", source),
        lambda: o.accentuation(o.channel("deep", 1), "stem", source),
    )
    for way in ways:
        with pytest.raises(FvfastError, match=r"^a picture"):
            way()
