"""The only door into this package: argument checks, and dispatch between the kernels and the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from fvfast_kernels import reference, resample
from fvfast_kernels.dispatch import resolve
from fvfast_kernels.geometry import Epilogue, Geometry

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def synthesize(
    spectrum: Tensor,
    envelope: Tensor,
    views: Tensor,
    *,
    width: int,
    out_size: tuple[int, int],
    colour: Tensor,
    mean: Tensor,
    std: Tensor,
    magnitude: Tensor | None = None,
    gain: float = 0.25,
    precision: str = "exact",
    dtype: torch.dtype = torch.float32,
    layout: str = "nchw",
    band: int | None = None,
    antialias: bool = True,
    border: str = "wrap",
    backend: str = "auto",
) -> Tensor:
    """Evaluate the image of a Fourier spectrum at the pixels of a view; differentiable in the spectrum only.

    With signed row frequencies ky, column frequencies kx = 0 .. M-1 and weights w = 1 at kx = 0 (and at kx =
    W/2 if W is even), else 2, the decorrelated field is the trigonometric polynomial of the spectrum,
    evaluated at any point:

        f(y, x) = Re sum_{ky,kx} w envelope S[ky,kx] e^{2 pi i (ky y / H + kx x / W)} / sqrt(H W)
        view    = (sigmoid(gain * colour @ f) - mean) / std

    Pixel (i, j) of the view lies at

        y = (H-1)/2 + zy (i - (Rh-1)/2) + ty
        x = (W-1)/2 + zx (j - (Rw-1)/2) + tx + sigma (y - (H-1)/2)

    so that the view (0, 0, 1, 1, 0) at out_size (H, W) is the canvas itself, torch.fft.irfft2(norm="ortho"),
    and a whole ty, tx is torch.roll by (-ty, -tx). An even H has its Nyquist row at ky = -H/2.

    Args:
        spectrum: (B, 3, 2, H, M), float32, M = W//2 + 1: the planes real and imaginary of the half-spectrum,
            rows in torch.fft's order. The reference also takes float64 and then computes in it.
        envelope: (H, M) or one an image, (B, H, M): the factor of every frequency, in the spectrum's dtype.
        views: (B, 5): ty, tx in canvas pixels; zy, zx in canvas pixels a view pixel, above 0 and below 8 (1
            is life size, above 1 shows more of the canvas, smaller); sigma, the shear in canvas columns a
            canvas row. Shifts may be fractional and of any size up to 2^15 (the canvas wraps around).
        width: W, which M alone does not tell.
        out_size: (Rh, Rw).
        colour: (3, 3), from decorrelated to RGB channels: out = colour @ in.
        mean: (3,), the network's normalisation on the range 0..1.
        std: (3,), the same.
        magnitude: (3, H, M) or one an image, (B, 3, H, M). If given, `spectrum` is the phase, (B, 3, H, M) in
            radians, of S = magnitude e^{i phase}, and the gradient is the phase's (MaCo).
        gain: factor before the sigmoid.
        precision: "exact" (relative error about 1e-6) or "fast" (half-precision products, about 4e-4). The
            reference computes in the spectrum's dtype in either.
        dtype: of the view: float32, float16, bfloat16 (reference: float64 too).
        layout: "nchw"; "nhwc", the same shape in channels-last strides; or "nhwc4": (B, 4, Rh, Rw),
            channels-last, with a fourth plane of zeros, which makes every pixel of a half-precision view one
            8-byte word.
        band: keep |ky| <= band and kx <= band only (coarse to fine); all if None. What is left out is not
            computed.
        antialias: leave out, view by view, the frequencies beyond the Nyquist frequency of the view's own
            pixels: those with zx kx / W > 1/2 or zy |ky / H + sigma kx / W| > 1/2. No frequency is, where
            zoom <= 1 and sigma = 0.
        border: "wrap": the canvas repeats; "mask": pixels of the view more than half a pixel beyond the
            canvas's outermost samples show the colour `mean`, 0 once normalised, and have no gradient.
        backend: "auto", "reference" or "triton"; the environment variable FVFAST_KERNELS replaces "auto".

    Returns:
        The view, (B, 3, Rh, Rw) or (B, 4, Rh, Rw).

    Raises:
        ValueError: a shape, dtype, device or option is not one of the above.
        RuntimeError: the backend "triton" was asked for where it cannot run.
    """
    _check_synthesis(spectrum, magnitude, envelope, views, width, out_size, colour, mean, std)
    _check_one_of("precision", precision, ("exact", "fast"))
    _check_one_of("layout", layout, ("nchw", "nhwc", "nhwc4"))
    _check_one_of("border", border, ("wrap", "mask"))
    _check_one_of("dtype", dtype, DTYPES)
    if band is not None and band < 0:
        raise ValueError(f"band must be at least 0, not {band}")
    geometry = Geometry(spectrum.shape[-2], width, *out_size, band, antialias, border)
    epilogue = Epilogue(colour, mean, std, float(gain))
    if resolve(backend, spectrum.device) == "reference":
        if magnitude is not None:
            spectrum = reference.polar(magnitude, spectrum)
        return reference.Synthesis.apply(spectrum, envelope, views, geometry, epilogue, layout, dtype)
    _check_one_of("dtype of the spectrum", spectrum.dtype, (torch.float32,))
    _check_one_of("dtype", dtype, DTYPES[:3])
    from fvfast_kernels import library

    constants = (width, *out_size, epilogue.gain, precision, dtype, layout, band, antialias, border)
    return library.synthesize(spectrum, magnitude, envelope, views, colour, mean, std, *constants)[0]


def warp(
    image: Tensor,
    matrix: Tensor,
    out_size: tuple[int, int],
    *,
    border: str | float = "wrap",
    backend: str = "auto",
) -> Tensor:
    """Sample images bilinearly at affinely mapped points; differentiable in the image.

    Output pixel (i, j) takes the input's value at

        (y, x) = ((H-1)/2, (W-1)/2) + matrix @ (i - (Rh-1)/2, j - (Rw-1)/2, 1)

    so that the output's centre shows the input's centre shifted by the matrix's last column; y comes before
    x, as in the views of `synthesize`: the view (ty, tx, zy, zx, sigma) is [[zy, 0, ty], [sigma zy, zx, tx +
    sigma ty]].

    Args:
        image: (B, C, H, W), floating point.
        matrix: (B, 2, 3), in the image's dtype or float32; lengths in input pixels.
        out_size: (Rh, Rw).
        border: what lies outside: "wrap", the image repeated; "zeros"; or a number, every channel's value
            there.
        backend: as in `synthesize`.

    Returns:
        (B, C, Rh, Rw) in the image's dtype.

    Raises:
        ValueError: a shape, dtype, device or option is not one of the above.
        RuntimeError: the backend "triton" was asked for where it cannot run.
    """
    if image.dim() != 4 or not image.is_floating_point():
        raise ValueError(f"image must be a floating-point (B, C, H, W), not {_describe(image)}")
    if matrix.shape != (image.shape[0], 2, 3):
        raise ValueError(f"matrix must have shape {(image.shape[0], 2, 3)}, not {tuple(matrix.shape)}")
    if min(out_size) < 1:
        raise ValueError(f"out_size must be two positive numbers, not {tuple(out_size)}")
    if isinstance(border, str):
        _check_one_of("border", border, ("wrap", "zeros"))
    if resolve(backend, image.device) == "reference":
        return resample.warp(image, matrix.to(image.dtype), out_size, border)
    _check_one_of("dtype of the image", image.dtype, DTYPES[:3])
    from fvfast_kernels import library

    fill = 0.0 if isinstance(border, str) else float(border)
    return library.warp(image, matrix.to(torch.float32), *out_size, border == "wrap", fill)


def adam_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor | int,
    lr: Tensor | float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    *,
    backend: str = "auto",
) -> None:
    """One step of torch.optim.Adam (no weight decay, minimising) in place on param, exp_avg and exp_avg_sq.

    Args:
        param, grad, exp_avg, exp_avg_sq: one shape, one floating-point dtype, one device.
        step: the number of this update, from 1; an int, or a 0-d tensor (a device counter in a CUDA graph).
        lr: a number, a 0-d tensor, or a tensor (B,) with one learning rate for each entry of the first
            dimension.
        betas, eps: as in torch.optim.Adam.
        backend: as in `synthesize`.

    Raises:
        ValueError: the tensors differ in shape, dtype or device, or lr is of another length than the batch.
        RuntimeError: the backend "triton" was asked for where it cannot run.
    """
    for name, other in (("grad", grad), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)):
        if (other.shape, other.dtype, other.device) != (param.shape, param.dtype, param.device):
            raise ValueError(f"{name} must be like param, {_describe(param)}, not {_describe(other)}")
    if isinstance(lr, Tensor) and lr.dim() > 0 and lr.shape != param.shape[:1]:
        raise ValueError(f"lr must be a number or have shape {tuple(param.shape[:1])}, not {tuple(lr.shape)}")
    with torch.no_grad():
        if resolve(backend, param.device) == "reference":
            resample.adam_(param, grad, exp_avg, exp_avg_sq, step, lr, betas, eps)
            return
        _check_one_of("dtype of param", param.dtype, (torch.float32,))
        if not (param.is_contiguous() and exp_avg.is_contiguous() and exp_avg_sq.is_contiguous()):
            raise ValueError("param, exp_avg and exp_avg_sq must be contiguous")
        from fvfast_kernels import library

        step = step if isinstance(step, Tensor) else torch.full((), step, device=param.device)
        lr = lr if isinstance(lr, Tensor) else torch.full((), lr, device=param.device)
        library.adam_(param, grad, exp_avg, exp_avg_sq, step, lr, *betas, eps)


# --- Checks.


def _check_synthesis(spectrum, magnitude, envelope, views, width, out_size, colour, mean, std) -> None:
    if magnitude is None and (spectrum.dim() != 5 or spectrum.shape[1:3] != (3, 2)):
        raise ValueError(f"spectrum must have shape (B, 3, 2, H, M), not {tuple(spectrum.shape)}")
    if magnitude is not None and (spectrum.dim() != 4 or spectrum.shape[1] != 3):
        raise ValueError(f"a phase must have shape (B, 3, H, M), not {tuple(spectrum.shape)}")
    if spectrum.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"spectrum must be float32, not {spectrum.dtype}")
    batch, height, columns = spectrum.shape[0], *spectrum.shape[-2:]
    if width // 2 + 1 != columns:
        raise ValueError(f"a width of {width} needs {width // 2 + 1} columns in the spectrum, not {columns}")
    if magnitude is not None and magnitude.shape not in (spectrum.shape, spectrum.shape[1:]):
        raise ValueError(f"magnitude must have shape {tuple(spectrum.shape[1:])}, not {tuple(magnitude.shape)}")
    if envelope.shape not in ((height, columns), (batch, height, columns)):
        raise ValueError(f"envelope must have shape {(height, columns)}, not {tuple(envelope.shape)}")
    if min(out_size) < 1:
        raise ValueError(f"out_size must be two positive numbers, not {tuple(out_size)}")
    shapes = {"views": (batch, 5), "colour": (3, 3), "mean": (3,), "std": (3,)}
    given = {"views": views, "colour": colour, "mean": mean, "std": std}
    for name, shape in shapes.items():
        if given[name].shape != shape:
            raise ValueError(f"{name} must have shape {shape}, not {tuple(given[name].shape)}")
    for name, tensor in (("magnitude", magnitude), ("envelope", envelope), *given.items()):
        if tensor is None:
            continue
        if tensor.dtype != spectrum.dtype or tensor.device != spectrum.device:
            raise ValueError(f"{name} must be {spectrum.dtype} on {spectrum.device}, not {_describe(tensor)}")


def _check_one_of(name: str, value: object, choices: tuple) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}")


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
