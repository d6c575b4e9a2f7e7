import pytest
import torch

from fvfast.errors import did_you_mean, is_out_of_memory, nearest

NAMES = ["resnet18", "resnet34", "resnet101", "wide_resnet50_2", "vgg16", "_blocks.1", "_blocks.10"]


@pytest.mark.parametrize(
    ("word", "best"),
    [
        ("resnet81", "resnet18"),
        ("vgg61", "vgg16"),
        ("_blocks.l0", "_blocks.10"),
        ("wide", "wide_resnet50_2"),
        ("VGG16", "vgg16"),
    ],
)
def test_the_nearest_name_comes_first(word, best):
    assert nearest(word, NAMES)[0] == best


def test_no_more_names_than_asked_for_and_none_twice():
    assert len(nearest("resnet", NAMES, count=2)) == 2
    assert len(set(nearest("resnet18", NAMES))) == len(nearest("resnet18", NAMES))


def test_a_far_word_suggests_nothing():
    assert did_you_mean("zzzzqqqq", NAMES) == ""
    assert did_you_mean("", NAMES) == ""


def test_a_suggestion_reads_as_a_question():
    assert did_you_mean("vgg61", ["vgg16"]) == " (did you mean vgg16?)"


def test_torch_out_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)  # 128 PiB: no machine has them
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.dot(torch.ones(2), torch.ones(3))
    assert not is_out_of_memory(caught.value)
    assert not is_out_of_memory(ValueError("can't allocate memory"))
