import io

import numpy as np
import PIL.Image
import pytest
import torch
from PIL import ImageCms

from fvfast import photographs
from fvfast.errors import FvfastError
from fvfast.photographs import Photograph

ORIENTATION, ARTIST = 0x0112, 0x013B


@pytest.fixture
def picture():
    """48 x 32 px: red grows to the right, green downwards, blue is in the top left quarter."""
    array = np.zeros((32, 48, 3), np.uint8)
    array[..., 0] = np.linspace(0, 255, 48)
    array[..., 1] = np.linspace(0, 255, 32)[:, None]
    array[:16, :24, 2] = 200
    return PIL.Image.fromarray(array)


def test_pixels_come_back_as_they_were(picture, tmp_path):
    picture.save(tmp_path / "a.png")
    read = photographs.read(tmp_path / "a.png")
    assert (read.format, read.alpha, read.exif, read.profile) == ("PNG", None, b"", None)
    expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    assert torch.allclose(read.image, expected)
    photographs.write(read, tmp_path / "b.png")
    assert np.array_equal(np.array(PIL.Image.open(tmp_path / "b.png")), np.array(picture))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_orientation_is_honoured_once(picture, tmp_path, orientation):
    exif = PIL.Image.Exif()
    exif[ORIENTATION], exif[ARTIST] = orientation, "someone"
    # What each orientation means: how the stored pixels become upright.
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}[orientation]
    upright = picture.transpose(PIL.Image.Transpose(turn))
    picture.save(tmp_path / "a.png", exif=exif)
    read = photographs.read(tmp_path / "a.png")
    assert np.array_equal((read.image * 255).round().byte().permute(1, 2, 0).numpy(), np.array(upright))
    photographs.write(read, tmp_path / "b.png")
    with PIL.Image.open(tmp_path / "b.png") as again:
        assert again.size == upright.size
        assert ORIENTATION not in again.getexif()
        assert again.getexif()[ARTIST] == "someone"


def test_transparency_is_kept_pixel_by_pixel(picture, tmp_path):
    picture.putalpha(PIL.Image.linear_gradient("L").resize(picture.size))
    picture.save(tmp_path / "a.png")
    read = photographs.read(tmp_path / "a.png")
    photographs.write(read.with_image(1 - read.image), tmp_path / "b.png")
    again = PIL.Image.open(tmp_path / "b.png")
    assert again.mode == "RGBA"
    assert np.array_equal(np.array(again)[..., 3], np.array(picture)[..., 3])
    assert np.array_equal(np.array(again)[..., :3], 255 - np.array(picture)[..., :3])


def test_a_palettes_transparent_colour_is_kept(picture, tmp_path):
    small = picture.quantize(8)
    small.info["transparency"] = 3
    small.save(tmp_path / "a.gif", transparency=3)
    read = photographs.read(tmp_path / "a.gif")
    assert read.format == "GIF"
    assert read.alpha is not None
    clear = np.array(small) == 3
    assert clear.any()
    assert np.array_equal(np.array(read.alpha) == 0, clear)


def test_a_colour_profile_is_kept_where_it_belongs_to_rgb(picture, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(tmp_path / "a.jpg", icc_profile=profile)
    read = photographs.read(tmp_path / "a.jpg")
    photographs.write(read, tmp_path / "b.jpg")
    assert PIL.Image.open(tmp_path / "b.jpg").info["icc_profile"] == profile
    picture.convert("CMYK").save(tmp_path / "c.jpg", icc_profile=profile)
    assert photographs.read(tmp_path / "c.jpg").profile is None


@pytest.mark.parametrize(("mode", "tolerance"), [("L", 0.0), ("CMYK", 0.03), ("1", 0.0)])
def test_other_kinds_of_pixels_become_rgb(picture, tmp_path, mode, tolerance):
    stored = picture.convert(mode)
    stored.save(tmp_path / "a.tif")
    read = photographs.read(tmp_path / "a.tif")
    assert read.image.shape == (3, 32, 48)
    expected = np.asarray(stored.convert("RGB"), dtype=np.float32).transpose(2, 0, 1) / 255
    assert np.abs(read.image.numpy() - expected).max() <= tolerance + 1e-6


def test_sixteen_bits_of_grey_are_scaled_to_one(tmp_path):
    grey = np.array([[0, 65535], [32768, 100]], np.uint16)
    PIL.Image.fromarray(grey).save(tmp_path / "a.png")
    image = photographs.read(tmp_path / "a.png").image
    assert torch.allclose(image[1], torch.tensor([[0, 1], [32768 / 65535, 100 / 65535]]), atol=1e-6)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp", ".gif"])
def test_every_format_is_written_as_its_name_says(picture, tmp_path, suffix):
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    photographs.write(Photograph(image), tmp_path / f"a{suffix}")
    again = photographs.read(tmp_path / f"a{suffix}")
    assert again.image.shape == image.shape
    assert (again.image - image).abs().mean() < 0.02
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]


def test_what_cannot_be_written_is_a_sentence(picture, tmp_path):
    alpha = PIL.Image.new("L", (48, 32))
    photograph = Photograph(torch.zeros(3, 32, 48), alpha)
    with pytest.raises(FvfastError, match="JPEG holds no transparency"):
        photographs.write(photograph, tmp_path / "a.jpg")
    with pytest.raises(FvfastError, match="cannot tell a picture's format"):
        photographs.write(photograph, tmp_path / "a.xyz")
    with pytest.raises(FvfastError, match="cannot write"):
        photographs.write(photograph, tmp_path / "nowhere" / "a.png")


def test_what_cannot_be_read_is_a_sentence(picture, tmp_path):
    with pytest.raises(FvfastError, match="no file"):
        photographs.read(tmp_path / "none.jpg")
    with pytest.raises(FvfastError, match="is a folder"):
        photographs.read(tmp_path)
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(FvfastError, match="is not a picture that can be read"):
        photographs.read(tmp_path / "text.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(FvfastError, match="is not a picture that can be read"):
        photographs.read(tmp_path / "empty.jpg")
    buffer = io.BytesIO()
    picture.resize((400, 400)).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:1500])
    with pytest.raises(FvfastError, match="cannot be read as a picture"):
        photographs.read(tmp_path / "cut.jpg")
