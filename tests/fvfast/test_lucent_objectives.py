"""lucent's objectives against its formulas, written here with loops over numpy arrays."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fvfast import FvfastError
from fvfast.compat.lucent import objectives

MAPS = torch.randn(3, 4, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OTHER = torch.randn(3, 6, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
IMAGE = torch.rand(3, 3, 6, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
A = MAPS.numpy()


def T(name: str) -> torch.Tensor:
    return {"maps": MAPS, "other": OTHER, "input": IMAGE}[name]


def cosine(a, b):
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


WEIGHT = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
W = WEIGHT.numpy()
GRAMS = [A[b].reshape(4, -1) @ A[b].reshape(4, -1).T for b in range(3)]

CASES = {
    "channel": (objectives.channel("maps", 2), -A[:, 2].mean()),
    "channel of one image": (objectives.channel("maps", 2, batch=1), -A[1, 2].mean()),
    "neuron, in the middle": (objectives.neuron("maps", 2), -A[:, 2, 2, 3].mean()),
    "neuron, x to the right and y down": (objectives.neuron("maps", 2, x=6, y=1), -A[:, 2, 1, 6].mean()),
    "neuron of one image": (objectives.neuron("maps", 2, x=0, batch=2), -A[2, 2, 2, 0]),
    "channel_weight": (objectives.channel_weight("maps", WEIGHT), -(A * W[None, :, None, None]).mean()),
    "neuron_weight": (objectives.neuron_weight("maps", WEIGHT, x=4, y=0), -(A[:, :, 0, 4] * W).mean()),
    "neuron_weight of none": (objectives.neuron_weight("maps", None, x=4, y=0), -A[:, :, 0, 4].mean()),
    "localgroup_weight": (
        objectives.localgroup_weight("maps", WEIGHT, x=1, y=2, wx=4, wy=2),
        -(A[:, :, 2:4, 1:5] * W[None, :, None, None]).mean(),
    ),
    "localgroup_weight of none": (
        objectives.localgroup_weight("maps", x=1, y=2, wx=4, wy=2),
        -A[:, :, 2:4, 1:5].mean(),
    ),
    "direction": (
        objectives.direction("maps", WEIGHT),
        -np.mean([cosine(A[b, :, y, x], W) for b in range(3) for y in range(5) for x in range(7)]),
    ),
    "direction_neuron": (
        objectives.direction_neuron("maps", WEIGHT, x=5, y=3, batch=0),
        -cosine(A[0, :, 3, 5], W),
    ),
    "deepdream": (objectives.deepdream("maps"), -(A**2).mean()),
    "channel_interpolate": (
        objectives.channel_interpolate("maps", 0, "other", 5),
        -sum((1 - b / 2) * A[b, 0].mean() + b / 2 * OTHER.numpy()[b, 5].mean() for b in range(3)),
    ),
    "alignment": (
        objectives.alignment("maps", decay_ratio=3),
        sum(((A[i] - A[i + d]) ** 2).mean() / 3.0**d for d in (1, 2) for i in range(3 - d)),
    ),
    "diversity": (
        objectives.diversity("maps"),
        -sum(cosine(GRAMS[i].ravel(), GRAMS[j].ravel()) for i in range(3) for j in range(3) if i != j) / 3,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_objective_is_lucents_formula(name):
    objective, expected = CASES[name]
    assert float(objective(T)) == pytest.approx(float(expected), rel=1e-12)


def test_blur_input_each_step_is_half_the_square_distance_to_the_blur():
    image, total = IMAGE.numpy(), 0.0
    for b in range(3):
        for c in range(3):
            for y in range(6):
                for x in range(8):
                    near = [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if 0 <= y + i < 6 and 0 <= x + j < 8]
                    weights = [1.0 if place == (y, x) else 0.5 for place in near]
                    blurred = sum(w * image[b, c, i, j] for w, (i, j) in zip(weights, near, strict=True)) / sum(weights)
                    total += (image[b, c, y, x] - blurred) ** 2
    assert float(objectives.blur_input_each_step()(T)) == pytest.approx(-0.5 * total, rel=1e-12)


def test_the_blur_itself_is_held_fixed():
    image = IMAGE.clone().requires_grad_()
    objectives.blur_input_each_step()(lambda name: image).backward()
    ones = torch.full((3, 1, 3, 3), 0.5, dtype=torch.float64)
    ones[:, :, 1, 1] = 1
    sums = F.conv2d(IMAGE, ones, padding=1, groups=3) / F.conv2d(torch.ones_like(IMAGE), ones, padding=1, groups=3)
    assert image.grad is not None
    torch.testing.assert_close(image.grad, -(IMAGE - sums))


def test_a_sum_is_a_sum():
    a, b = objectives.channel("maps", 0), objectives.channel("maps", 1)
    va, vb = float(a(T)), float(b(T))
    for objective, expected in [
        (a + b, va + vb),
        (a - 2 * b, va - 2 * vb),
        (-a, -va),
        (a / 4, va / 4),
        (a * 3, 3 * va),
        (a + 1, va + 1),
        (1 + a, va + 1),
        (sum([a, b]), va + vb),
        (objectives.Objective.sum([a, b, a]), 2 * va + vb),
    ]:
        assert isinstance(objective, objectives.Objective)
        assert float(objective(T)) == pytest.approx(expected, rel=1e-12)


def test_an_objective_does_not_multiply_with_another():
    a = objectives.channel("maps", 0)
    with pytest.raises(TypeError, match="multiply by int or float"):
        _ = a * a  # pyright: ignore[reportOperatorIssue]
    with pytest.raises(TypeError, match="divide by int or float"):
        _ = a / "2"  # pyright: ignore[reportOperatorIssue]


def test_an_objective_says_what_it_is():
    a = objectives.channel("maps", 0)
    assert (a.name, a.description) == ("channel", "Channel [maps, 0]")
    both = a + objectives.direction("maps", torch.arange(100.0))
    assert both.name == "channel, direction"
    assert both.description == "Sum(Channel [maps, 0] +\nDirection [maps, ...])"


def test_a_string_is_a_channel():
    assert float(objectives.as_objective(" maps: 2 ")(T)) == float(-MAPS[:, 2].mean())


def test_ones_own_objective_is_wrapped():
    @objectives.wrap_objective()
    def brightest(layer, power=1):
        @objectives.handle_batch(1)
        def inner(model):
            return -(model(layer).max() ** power)

        return inner

    made = brightest("maps", power=2)
    assert float(made(T)) == pytest.approx(-(A[1].max() ** 2))
    assert (made.name, made.description) == ("brightest", "Brightest [maps, 2]")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: objectives.as_objective("maps"), "'maps' is no objective"),
        (lambda: objectives.as_objective("maps:x"), "write 'layer:channel'"),
        (lambda: objectives.channel("maps", 4)(T), "maps has channels 0-3, not 4"),
        (lambda: objectives.neuron("maps", 0, x=7)(T), "x=7, y=2 lies outside maps, which has 5 rows and 7 columns"),
        (lambda: objectives.neuron("flat", 0)(lambda _: torch.zeros(1, 4)), "flat has no grid of positions"),
        (lambda: objectives.direction("maps", torch.ones(3))(T), r"maps has 4 channels; the vector has shape \(3,\)"),
        (lambda: objectives.channel_interpolate("maps", 0, "maps", 1)(lambda _: MAPS[:1]), "goes along a batch"),
    ],
)
def test_bad_input_is_one_sentence(make, sentence):
    with pytest.raises(FvfastError, match=sentence):
        make()
