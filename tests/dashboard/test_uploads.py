"""What browsers send: pictures are taken, everything else is refused with a sentence and without being unpacked."""

import io
import struct
import zlib

import PIL.Image
import pytest
from fvfast_dashboard import uploads
from fvfast_dashboard.uploads import accept, plain_name

from fvfast.errors import FvfastError


def encoded(format, size=(60, 40), **options):
    buffer = io.BytesIO()
    PIL.Image.effect_noise(size, 80).convert("RGB").save(buffer, format, **options)
    return buffer.getvalue()


def png_that_claims(width, height):
    """A PNG whose header promises more pixels than there are bytes in it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10**6))
        + chunk(b"IEND", b"")
    )


def refused(name, data):
    with pytest.raises(FvfastError) as caught:
        accept(name, data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("format", "suffix"), uploads.FORMATS.items())
def test_pictures_are_taken_by_what_they_are(format, suffix):
    upload = accept("C:\\photos\\holiday.exe", encoded(format))
    assert (upload.name, upload.suffix, upload.width, upload.height) == ("holiday.exe", suffix, 60, 40)
    assert len(upload.digest) == 64


def test_a_picture_that_lies_on_its_side_is_measured_upright():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    upload = accept("a.jpg", encoded("JPEG", exif=exif))
    assert (upload.width, upload.height) == (40, 60)


def test_a_decompression_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(PIL.Image.Image, "load", lambda self: pytest.fail("it was unpacked"))
    sentence = refused("bomb.png", png_that_claims(6_000, 6_000))
    assert sentence == "bomb.png has 6000x6000 pixels: 24 million are the most; make it smaller"
    sentence = refused("bomb.png", png_that_claims(60_000, 60_000))
    assert sentence == "bomb.png has too many pixels: 24 million are the most"


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_not_cut_to_its_first_frame(format):
    more = [PIL.Image.effect_noise((60, 40), 80).convert("RGB") for _ in range(2)]
    assert refused("a", encoded(format, save_all=True, append_images=more)).startswith("a has 3 frames: give one of")


def test_what_is_no_picture():
    assert refused("a.png", b"#!/bin/sh\nrm -rf /\n").startswith("a.png is not a picture")
    assert refused("a.png", b"").startswith("a.png is not a picture")
    assert refused("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").startswith("a.eps is not a picture")
    assert refused("a.jpg", encoded("JPEG")[:400]) == "a.jpg is damaged and cannot be read as a picture"
    assert refused("a.png", encoded("PNG", (20, 90))) == "a.png has 20x90 pixels: 32 on each side are the least"
    assert refused("a.png", bytes(33 * 2**20)) == "a.png has 33 MB: 32 MB are the most"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("../../etc/passwd", "passwd"),
        ("a\x00b\n.png", "a_b_.png"),
        ("..", "picture"),
        ("-rf", "rf"),
        ("Urlaub (1) ä.jpg", "Urlaub (1) ä.jpg"),
        ("x" * 200 + ".png", "x" * 76 + ".png"),
    ],
)
def test_names_are_names_only(name, plain):
    assert plain_name(name) == plain
