"""Every objective against a value worked out by hand or another way."""

import pytest
import torch

import fvfast.objectives as o
from fvfast.errors import FvfastError
from fvfast.expressions import Context
from fvfast.layers import Layer
from fvfast.together import Together

MAPS = Layer("maps", "Conv2d", 4, 3, 5, None, False, 1)
TOKENS = Layer("tokens", "Block", 4, 2, 2, 5, True, 1)
BARE = Layer("bare", "Linear", 4, None, None, None, False, 1)
LAYERS = {layer.name: layer for layer in (MAPS, TOKENS, BARE)}


@pytest.fixture
def maps():
    """[2, 4, 3, 5]; channel c of image b is b * 100 + c * 10 + y + x / 10."""
    b, c, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in (2, 4, 3, 5)), indexing="ij")
    return b * 100 + c * 10 + y + x / 10


@pytest.fixture
def context(maps):
    tokens = torch.arange(2 * 5 * 4.0).view(2, 5, 4).transpose(1, 2)[..., None]  # [2, 4, 5, 1]
    return Context({"maps": maps, "tokens": tokens, "bare": maps[:, :, 0, 0, None, None]}, layers=LAYERS)


def close(value, expected):
    # float32 sums of a few dozen terms: 1e-6 leaves room for the order of roundings
    torch.testing.assert_close(value, torch.as_tensor(expected, dtype=torch.float32), rtol=1e-6, atol=1e-6)


def test_channel_is_the_mean_of_its_map(context):
    close(o.channel("maps", 2).value(context), [20 + 1 + 0.2, 120 + 1 + 0.2])


def test_neuron_is_one_position(context):
    close(o.neuron("maps", 3, 2, 4).value(context), [32.4, 132.4])


def test_neuron_without_a_position_is_the_centre(context):
    close(o.neuron("maps", 3).value(context), [31.2, 131.2])


def test_neuron_among_tokens_skips_the_class_token(context):
    # 5 tokens of 4 channels: a class token, then the grid's 4; (1, 0) is token 3
    close(o.neuron("tokens", 2, 1, 0).value(context), [3 * 4 + 2, 20 + 3 * 4 + 2])
    close(o.neuron("tokens", 2).value(context), [4 * 4 + 2, 20 + 4 * 4 + 2])


def test_neuron_at_an_edge_is_not_the_centre(context):
    close(o.neuron("maps", 0, 0, 0).value(context), [0, 100])


def test_layer_is_the_mean_square(context, maps):
    close(o.layer("maps").value(context), maps.numpy().__pow__(2).mean((1, 2, 3)))


def test_logit_is_the_output_itself(maps):
    logits = Context({"logits": maps[:, :, 0, 0, None, None]})
    close(o.logit(3).value(logits), [30, 130])


def test_direction_is_a_dot_product(context, maps):
    vector = [1.0, -2, 0, 0.5]
    by_hand = (maps[:, 0] - 2 * maps[:, 1] + 0.5 * maps[:, 3]).mean((1, 2))
    torch.testing.assert_close(o.direction("maps", vector).value(context), by_hand, rtol=1e-5, atol=1e-4)


def test_direction_weighs_with_the_cosine():
    # Positions with cosines 1, 0.6 and -1 to the vector (2, 0): dots 2, 6 and -4; the last cosine counts as 0.1.
    maps = torch.tensor([[[[1.0, 3.0, -2.0]], [[0.0, 4.0, 0.0]]]])
    expected = (2 * 1 + 6 * 0.6**2 - 4 * 0.1**2) / 3
    close(o.direction("a", [2.0, 0.0], power=2).value(Context({"a": maps})), [expected])


def test_diversity_of_copies_and_of_opposites():
    one = torch.zeros(1, 2, 1, 2)
    one[0, 0] = 1  # its Gram matrix has only the entry (0, 0)
    other = one.flip(1)  # and this one only (1, 1)
    close(o.diversity("a").value(Context({"a": torch.cat([one, one])})), [-1, -1])
    close(o.diversity("a").value(Context({"a": torch.cat([one, other])})), [0, 0])
    # Three images, two of them alike: these see cosines 1 and 0, the third sees 0 and 0.
    close(o.diversity("a").value(Context({"a": torch.cat([one, one, other])})), [-0.5, -0.5, 0])


def test_diversity_of_one_is_nothing():
    close(o.diversity("a").value(Context({"a": torch.rand(1, 3, 2, 2)})), [0])


def canvas(value):
    return Context({}, lambda: value)


def test_total_variation_counts_each_step():
    image = torch.zeros(1, 3, 2, 2)
    image[..., 0, 0] = 1  # one step down, one to the right, of two each
    close(o.total_variation().value(canvas(image)), [0.5 + 0.5])
    close(o.total_variation().value(canvas(torch.full((1, 3, 4, 4), 0.7))), [0])


def test_norms_measure_the_distance_from_the_middle():
    image = torch.tensor([0.5, 0.9, 0.1, 0.5]).view(1, 1, 2, 2)
    close(o.l1().value(canvas(image)), [0.2])
    close(o.l2().value(canvas(image)), [0.08])
    close(o.l1(middle=0.0).value(canvas(image)), [0.5])
    close(o.l2(middle=0.1).value(canvas(image)), [(0.16 + 0.64 + 0 + 0.16) / 4])


def test_blur_punishes_what_a_blur_removes():
    ramp = torch.linspace(0, 1, 33).expand(1, 3, 33, 33).contiguous()
    checks = torch.ones(1, 3, 33, 33)
    checks[..., ::2] = 0
    assert o.blur().value(canvas(torch.full((1, 3, 33, 33), 0.3))) < 1e-12  # rounding of a kernel that sums to 1
    # Stripes a pixel wide blur to their mean 0.5; sigma 1 lets exp(-pi^2 / 2) = 0.7 % through, edges a little more.
    assert o.blur().value(canvas(checks)).item() == pytest.approx(0.25, rel=0.05)
    assert o.blur().value(canvas(ramp)).item() < 1e-4
    assert o.blur(3.0).value(canvas(ramp)) > o.blur(1.0).value(canvas(ramp))


def test_blur_holds_the_blurred_image_fixed():
    image = torch.rand(1, 1, 9, 9, requires_grad=True)
    value = o.blur().value(canvas(image)).sum()
    (gradient,) = torch.autograd.grad(value, image)
    # With the blurred image b fixed, d/dx mean (x - b)^2 = 2 (x - b) / n, whose squares give the value back.
    assert (gradient.square().sum() * image.numel() / 4).item() == pytest.approx(value.item(), rel=1e-5)


# Many at once ----------------------------------------------------------------------------------------------


def test_each_image_of_a_batch_has_its_own_objective(maps):
    four = torch.cat([maps, maps + 1000])
    image = torch.rand(4, 3, 2, 2)
    parts = [
        (o.channel("maps", 2), 1),
        (o.neuron("maps", 3, 2, 4) - 2 * o.l2(), 1),
        (o.channel("maps", 0) + o.channel("bare", 1), 1),
        (o.channel("bare", 3), 1),
    ]
    context = Context({"maps": four, "bare": four[:, :, 0, 0, None, None]}, lambda: image, LAYERS)
    penalty = (image[1] - 0.5).square().mean().item()
    expected = [21.2, 132.4 - 2 * penalty, 1001.2 + 1010, 1130]
    torch.testing.assert_close(Together(parts)(context), torch.tensor(expected), rtol=1e-6, atol=1e-4)


def test_together_gives_gradients_to_the_right_images_and_channels():
    maps = torch.rand(3, 4, 2, 2, requires_grad=True)
    value = Together([(o.channel("maps", 1), 2), (o.neuron("maps", 3, 0, 1), 1)])(Context({"maps": maps}))
    (gradient,) = torch.autograd.grad(value.sum(), maps)
    expected = torch.zeros(3, 4, 2, 2)
    expected[:2, 1] = 0.25
    expected[2, 3, 0, 1] = 1
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0)


def test_together_keeps_a_coupled_objective_to_its_own_images():
    one = torch.zeros(1, 2, 1, 2)
    one[0, 0] = 1
    maps = torch.cat([one, one, one.flip(1)])
    value = Together([(o.diversity("a"), 2), (o.diversity("a"), 1)])(Context({"a": maps}))
    close(value, [-1, -1, 0])


def test_together_spreads_a_plain_number():
    value = Together([(o.channel("maps", 0) * 0 + 7, 2)])(Context({"maps": torch.rand(2, 1, 2, 2)}))
    close(value, [7, 7])


def test_half_precision_activations_are_averaged_in_float32():
    # 40,000 ones: their sum overflows float16, and rounds in bfloat16 from 256 on
    maps = torch.ones(1, 1, 200, 200, dtype=torch.bfloat16)
    value = Together([(o.channel("maps", 0), 1)])(Context({"maps": maps}))
    assert value.dtype == torch.float32
    close(value, [1])


# Checks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        (o.channel("maps", 4), "maps has channels 0-3, not 4"),
        (o.channel("maps", -1), "maps has channels 0-3, not -1"),
        (o.neuron("maps", 9), "maps has channels 0-3, not 9"),
        (o.neuron("maps", 0, 3, 0), "'maps:0@3,0' lies outside maps, which is 3x5 at this size (Y 0-2, X 0-4)"),
        (o.neuron("maps", 0, -1, 0), "'maps:0@-1,0' lies outside maps"),
        (o.neuron("bare", 0), "bare has no grid of positions: leave out '@' in 'bare:0@centre'"),
        (o.direction("maps", [1.0, 2.0]), "a direction in maps needs 4 numbers, got a tensor of shape (2,)"),
        (2 * o.channel("maps", 0) + o.channel("tokens", 4), "tokens has channels 0-3, not 4"),
    ],
)
def test_what_a_layer_does_not_have_is_refused(objective, sentence):
    with pytest.raises(FvfastError) as caught:
        objective.check(LAYERS, "net")
    assert sentence in str(caught.value)


def test_what_a_layer_has_passes():
    for objective in (
        o.channel("maps", 3),
        o.neuron("maps", 0, 2, 4),
        o.direction("maps", torch.ones(4)),
        o.layer("bare"),
    ):
        objective.check(LAYERS, "net")
        (2 * objective - o.l2()).check(LAYERS, "net")


@pytest.mark.parametrize(
    ("objective", "label"),
    [
        (o.channel("a.b", 3), "a.b:3"),
        (o.neuron("a", 3), "a:3@centre"),
        (o.neuron("a", 3, 0, 2), "a:3@0,2"),
        (o.layer("a"), "a"),
        (o.logit(5), "logits:5"),
        (o.direction("a", [1.0]), "a:direction"),
        (o.diversity("a"), "diversity(a)"),
        (o.total_variation(), "total_variation"),
        (o.l1(), "l1"),
        (o.l2(), "l2"),
        (o.blur(), "blur"),
    ],
)
def test_labels(objective, label):
    assert objective.label == label
