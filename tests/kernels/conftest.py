"""The oracle of the synthesis, from its formula alone: a dense float64 DFT, without folding or FFT.

Where there is no GPU, the kernels run in triton's interpreter (see tests/conftest.py). It rounds the operands
of float16 products to float16 and sums in float32, as the hardware does.
"""

import math

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# View parameters (ty, tx, zy, zx, sigma) that no shortcut covers: sub-pixel and far shifts, both zooms,
# shears.
VIEWS = ((0.0, 0.0, 1.0, 1.0, 0.0), (1.3, -40.2, 0.8, 1.2, 0.3), (-300.25, 7.7, 1.1, 0.7, -0.2))


def dense_view(spectrum, envelope, views, *, width, out_size, colour, mean, std, gain=0.25, keep=None):
    """The view as a float64 sum over all frequencies at every point; `keep` [B, H, M] masks frequencies."""
    height, columns = spectrum.shape[-2:]
    ky = torch.fft.fftfreq(height, 1 / height).double()
    kx = torch.arange(columns).double()
    weight = torch.tensor([1.0 if k in (0, width / 2) else 2.0 for k in range(columns)]).double()
    spectrum = spectrum.double()
    scaled = torch.complex(spectrum[:, :, 0], spectrum[:, :, 1]) * weight
    scaled = scaled * (envelope.double() if envelope.dim() == 2 else envelope.double()[:, None])
    if keep is not None:
        scaled = scaled * keep[:, None]
    fields = []
    for entry, (ty, tx, zy, zx, sigma) in zip(scaled, views.double().tolist(), strict=True):
        i = torch.arange(out_size[0]).double() - (out_size[0] - 1) / 2
        j = torch.arange(out_size[1]).double() - (out_size[1] - 1) / 2
        y = (height - 1) / 2 + zy * i + ty
        x = (width - 1) / 2 + zx * j[None, :] + tx + sigma * (y[:, None] - (height - 1) / 2)
        along_y = torch.exp(2j * math.pi * y[:, None] * ky / height)
        along_x = torch.exp(2j * math.pi * x[..., None] * kx / width)
        terms = torch.einsum("ik,ckm->cim", along_y, entry)
        fields.append(torch.einsum("cim,ijm->cij", terms, along_x).real / math.sqrt(height * width))
    mixed = torch.einsum("cd,bdij->bcij", colour.double(), torch.stack(fields))
    return (torch.sigmoid(gain * mixed) - mean.double()[:, None, None]) / std.double()[:, None, None]


@pytest.fixture
def device():
    """Where the kernels run: on the GPU, or in the interpreter."""
    return DEVICE


@pytest.fixture
def oracle():
    return dense_view


@pytest.fixture
def make_inputs():
    """Inputs of a synthesis: a white spectrum, a random envelope, a full colour matrix, the views given."""

    def make(height, width, *, views=VIEWS, dtype=torch.float32, device="cpu", seed=0, envelope=None):
        generator = torch.Generator().manual_seed(seed)

        def draw(function, *shape):
            return function(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

        columns = width // 2 + 1
        inputs = {
            "spectrum": draw(torch.randn, len(views), 3, 2, height, columns),
            "envelope": draw(torch.rand, height, columns) if envelope is None else envelope.to(device, dtype),
            "views": torch.tensor(views, dtype=torch.float64).to(device, dtype),
        }
        options = {
            "width": width,
            "colour": draw(torch.randn, 3, 3),
            "mean": draw(torch.rand, 3),
            "std": draw(torch.rand, 3) + 0.5,
        }
        return inputs, options

    return make


def relative_error(value, truth):
    value, truth = value.double().cpu(), truth.double().cpu()
    return ((value - truth).norm() / truth.norm()).item()


@pytest.fixture
def error():
    return relative_error


def signed_bias(value, truth):
    """How much too large a result is along the truth: what truncation does and rounding does not."""
    value, truth = value.double().cpu(), truth.double().cpu()
    return ((value * truth).sum() / truth.square().sum() - 1).item()


@pytest.fixture
def bias():
    return signed_bias
