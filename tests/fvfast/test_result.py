from pathlib import Path

import PIL.Image
import pytest

import fvfast
from fvfast import files
from fvfast.tables import figure


@pytest.fixture
def result(tiny):
    return fvfast.render(tiny, ["deep:3", "logits:owl"], size=32, steps=3)


def test_saving_gives_the_files_of_the_images(result, tmp_path):
    paths = result.save(tmp_path / "out")
    assert [p.name for p in paths] == ["tiny-deep-3.png", "tiny-logits-owl.png"]
    for path, image in zip(paths, result.images, strict=True):
        with PIL.Image.open(path) as written:
            assert written.tobytes() == files.to_pil(image).tobytes()
    assert files.read_spec(paths[1])["target"] == "logits:owl"


def test_the_folder_is_renders_unless_told(result):
    assert [p.parent for p in result.save()] == [Path("renders")] * 2


def test_a_length_and_a_sheet(result):
    assert len(result) == 2
    wide, tall = result.sheet(), result.sheet(columns=1)
    assert wide.width > wide.height
    assert tall.height > tall.width
    assert wide.width > 2 * 224


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.34567, "12.346"), (-0.5, "-0.500"), (0.0, "0.000"), (1.09e-6, "1.09e-06"), (float("nan"), "nan")],
)
def test_small_objectives_keep_their_digits(value, text):
    assert figure(value) == text
