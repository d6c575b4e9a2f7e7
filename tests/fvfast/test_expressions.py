"""Algebra of objectives, by values."""

from dataclasses import dataclass

import pytest
import torch

from fvfast.expressions import Context, Objective
from fvfast.objectives import channel, diversity, l2, neuron, total_variation


@dataclass(frozen=True)
class Given(Objective):
    """An objective with a known value."""

    values: tuple[float, ...]

    def value(self, context):
        return torch.tensor(self.values)

    @property
    def label(self):
        return f"g{self.values[0]:g}"


A, B, C = Given((2.0, 6.0)), Given((4.0, 3.0)), Given((0.5, -1.0))
NOTHING = Context({})


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        (A + B, [6, 9]),
        (A - B, [-2, 3]),
        (A * B, [8, 18]),
        (A / B, [0.5, 2]),
        (-A, [-2, -6]),
        (A + 1, [3, 7]),
        (1 + A, [3, 7]),
        (A - 1, [1, 5]),
        (1 - A, [-1, -5]),
        (3 * A, [6, 18]),
        (A * 3, [6, 18]),
        (A / 4, [0.5, 1.5]),
        (A - (B - C), [-1.5, 2]),
        (A - B - C, [-2.5, 4]),
        (A - 2 * (B + C), [-7, 2]),
        (A * (B + C), [9, 12]),
        (sum([A, B, C]), [6.5, 8]),
        (sum([A]), [2, 6]),
        (A + A, [4, 12]),
        (0.5 * A + B * C - 1, [2, -1]),
    ],
)
def test_arithmetic_means_what_algebra_says(expression, values):
    torch.testing.assert_close(expression.value(NOTHING), torch.tensor(values, dtype=torch.float32), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("expression", "label"),
    [
        (A - (B - C), "g2 - (g4 - g0.5)"),
        (A - B - C, "(g2 - g4) - g0.5"),
        (2 * (A + B), "2 * (g2 + g4)"),
        (sum([A, B]), "g2 + g4"),
        (-A, "-1 * g2"),
        (A / 4, "g2 / 4"),
    ],
)
def test_a_label_has_the_brackets_that_algebra_needs(expression, label):
    assert expression.label == label


def test_operands_stay_as_they_are():
    first, second = channel("a", 1), neuron("b", 2)
    labels, identities = (first.label, second.label), (id(first), id(second))
    combined = first + second
    again = combined * 2 - first
    combined += 1
    assert (first.label, second.label) == labels
    assert (id(first), id(second)) == identities
    assert again.label == "((a:1 + b:2@centre) * 2) - a:1"
    assert first == channel("a", 1)
    with pytest.raises(AttributeError):
        first.channel = 5  # pyright: ignore[reportAttributeAccessIssue]


def test_an_expression_knows_the_layers_it_reads():
    assert (channel("a", 1) * 2 + neuron("b", 0) - total_variation()).layers == {"a", "b"}
    assert (total_variation() - l2()).layers == frozenset()


def test_only_diversity_couples_images():
    assert diversity("a").coupled
    assert (channel("a", 1) + 0.1 * diversity("a")).coupled
    assert not (channel("a", 1) - total_variation()).coupled


@pytest.mark.parametrize("other", ["three", None, [1], torch.ones(1)])
def test_what_is_no_number_is_refused(other):
    with pytest.raises(TypeError, match="an objective combines with objectives and numbers"):
        _ = A * other


def test_a_number_combines_with_values_on_another_device():
    # The device "meta" stands in for a GPU: it refuses to mix with the CPU's tensors in the same way.
    @dataclass(frozen=True)
    class Elsewhere(Given):
        def value(self, context):
            return super().value(context).to("meta")

    for expression in (2 * Elsewhere((1.0, 2.0)), Elsewhere((1.0, 2.0)) - 1):
        assert expression.value(NOTHING).shape == (2,)
        assert expression.value(NOTHING).device.type == "meta"


def test_the_canvas_is_made_once_and_only_on_demand():
    made = []

    def canvas():
        made.append(1)
        return torch.arange(6.0).view(3, 2)

    context = Context({"a": torch.arange(3.0)[:, None]}, canvas)
    part = context.rows(1, 3)
    assert not made
    assert part["a"].tolist() == [[1], [2]]
    assert part.canvas.tolist() == [[2, 3], [4, 5]]
    assert context.canvas.shape == (3, 2)
    assert len(made) == 1


def test_a_missing_canvas_is_an_error():
    with pytest.raises(ValueError, match="no image was given"):
        _ = NOTHING.canvas
