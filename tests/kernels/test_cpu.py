"""The CPU's synthesis for the hot loop against the dense float64 DFT and the reference."""

import math

import pytest
import torch
from fvfast_kernels import cpu, reference
from fvfast_kernels.geometry import Epilogue, Geometry

VIEWS = ((1.3, -40.2, 0.8, 1.2, 0.3), (-300.25, 7.7, 1.1, 0.7, -0.2), (0.25, 0.0, 0.9, 1.0, 0.0))
# float32: 2^-24 a term of sums of up to 400; 1.8e-7 (view) and 3e-7 (gradient) measured.
TOLERANCE = 1e-6


def both_ways(inputs, options, geometry, cotangent, channels=3):
    """Every view's image, and the gradient of the spectrum; step n of the table shows image b the view n + b."""
    epilogue = Epilogue(options["colour"], options["mean"], options["std"], 0.25)
    batch = cpu.Batch(len(inputs["spectrum"]), geometry, epilogue)
    for name, value in (*vars(batch.workspace).items(), ("sigmoid", batch.sigmoid)):
        # What is read before it is written shows.
        if isinstance(value, torch.Tensor) and value.dim() >= 3 and name not in ("scale", "offset"):
            value.fill_(math.nan)
    found = []
    table = torch.stack([inputs["views"].roll(-n, 0) for n in range(len(inputs["views"]))])
    for step in range(len(table)):
        view = torch.full((len(cotangent), channels, geometry.out_height, geometry.out_width), math.nan)
        view = view.contiguous(memory_format=torch.channels_last)
        batch.forward(inputs["spectrum"], inputs["envelope"], table, step, view)
        grad = batch.adjoint(cotangent.contiguous(memory_format=torch.channels_last))
        found.append((table[step], view, grad.clone()))
    return found


@pytest.mark.parametrize(
    ("size", "out_size", "channels"),
    [
        pytest.param((16, 18), (16, 18), 3, id="even"),
        pytest.param((17, 15), (12, 9), 4, id="odd"),
        pytest.param((24, 21), (31, 30), 3, id="larger view"),
        pytest.param((2, 3), (4, 5), 4, id="tiny"),
        pytest.param((1, 1), (3, 2), 3, id="one pixel"),
    ],
)
def test_equals_the_dense_transform(make_inputs, oracle, error, size, out_size, channels):
    inputs, options = make_inputs(*size, views=VIEWS)
    cotangent = torch.randn(3, channels, *out_size, generator=torch.Generator().manual_seed(1))
    geometry = Geometry(*size, *out_size, antialias=False)
    for views, view, grad in both_ways(inputs, options, geometry, cotangent, channels):
        spectrum = inputs["spectrum"].double().requires_grad_()
        truth = oracle(spectrum, inputs["envelope"], views, **options, out_size=out_size)
        (expected,) = torch.autograd.grad((truth * cotangent[:, :3]).sum(), spectrum)
        assert error(view[:, :3], truth.detach()) < TOLERANCE
        assert error(grad, expected) < TOLERANCE
        assert not view[:, 3:].any()


@pytest.mark.parametrize("band", [None, 5])
@pytest.mark.parametrize("border", ["wrap", "mask"])
@pytest.mark.parametrize("views", [VIEWS, ((0.5, 0.25, 1.5, 2.0, 0.0), (3, -2, 1, 1, 0), (0, 0, 1, 2.5, 0.4))])
def test_equals_the_reference(make_inputs, error, band, border, views):
    size, out_size = (20, 23), (21, 18)
    inputs, options = make_inputs(*size, views=views)
    inputs["envelope"] = torch.rand(3, 20, 12)  # one an image
    cotangent = torch.randn(3, 3, *out_size)
    geometry = Geometry(*size, *out_size, band, True, border)
    colour, mean, std = (options[name].double() for name in ("colour", "mean", "std"))
    epilogue = Epilogue(colour, mean, std, 0.25)
    for shown, view, grad in both_ways(inputs, options, geometry, cotangent):
        spectrum, envelope = inputs["spectrum"].double(), inputs["envelope"].double()
        truth, saved = reference.synthesize(
            spectrum, envelope, shown.double(), geometry, epilogue, "nchw", torch.float64
        )
        expected = reference.synthesize_adjoint(cotangent.double(), saved, geometry, epilogue)
        for image in range(3):
            if not truth[image].any():  # the view lies outside of a canvas that does not repeat
                assert border == "mask"
                assert not view[image].any()
                assert not grad[image].any()
                continue
            assert error(view[image], truth[image]) < TOLERANCE
            assert error(grad[image], expected[image]) < TOLERANCE


def test_phases_stay_exact_at_full_size(make_inputs, oracle, error):
    # Far shifts: a float32 product ky * y would be wrong by up to half a turn.
    inputs, options = make_inputs(512, 512, views=((20000.37, -31000.11, 1.0625, 0.93, 0.2),))
    geometry = Geometry(512, 512, 32, 31, antialias=False)
    ((_, view, _),) = both_ways(inputs, options, geometry, torch.randn(1, 3, 32, 31))
    assert error(view, oracle(*inputs.values(), **options, out_size=(32, 31))) < 2e-6


def test_half_precision_rounds_once(make_inputs):
    inputs, options = make_inputs(16, 18, views=VIEWS)
    geometry = Geometry(16, 18, 16, 18)
    batch = cpu.Batch(3, geometry, Epilogue(options["colour"], options["mean"], options["std"], 0.25))
    view, half = torch.empty(3, 3, 16, 18), torch.empty(3, 3, 16, 18, dtype=torch.bfloat16)
    for out in (view, half):
        batch.forward(inputs["spectrum"], inputs["envelope"], inputs["views"][None], 0, out)
    assert torch.equal(half, view.to(torch.bfloat16))


def test_other_views_and_envelopes_are_not_mixed_up_with_what_lies_ahead(make_inputs):
    inputs, options = make_inputs(16, 18, views=VIEWS)
    geometry = Geometry(16, 18, 16, 18)
    epilogue = Epilogue(options["colour"], options["mean"], options["std"], 0.25)
    table = torch.rand(20, 3, 5) * 0.3 + torch.tensor([2, -3, 0.9, 0.9, 0])
    used = cpu.Batch(3, geometry, epilogue)
    for envelope, views, step in (
        (inputs["envelope"], table, 0),
        (inputs["envelope"], table, 19),
        (inputs["envelope"], table.flip(0), 19),
        (inputs["envelope"] * 2, table, 7),
    ):
        found, fresh = torch.empty(2, 3, 3, 16, 18)
        used.forward(inputs["spectrum"], envelope, views, step, found)
        cpu.Batch(3, geometry, epilogue).forward(inputs["spectrum"], envelope, views[step:], 0, fresh)
        torch.testing.assert_close(found, fresh, rtol=0, atol=2e-6)
