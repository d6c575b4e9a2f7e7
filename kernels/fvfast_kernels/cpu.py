"""The hot loop's synthesis on a CPU: the reference's mathematics, an image at a time, into buffers that stay.

On a CPU the products are a third of the work. The rest would be memory that is new at every step, arrays copied into
another order, phases whose whole turns are dropped in integers, and calls that cost more than their work.
So everything is written into arrays that lie in a processor's own cache; the order of the spectrum, [3, 2, ky, kx],
stays until the rows; and what depends on the views alone is made for several steps at once (`Ahead`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

from fvfast_kernels.geometry import Epilogue, Geometry, inside_mask, nyquist_mask
from fvfast_kernels.reference import mirrored

Complex = Sequence[Tensor]  # two of them: the planes real and imaginary, or cos and sin


# --- What the views contribute.


@dataclass(frozen=True)
class Factors:
    """What one view contributes to the synthesis; `reference.Bases` says what each is for."""

    positive: Complex  # [rows, K]
    negative: Complex  # [rows, K]
    columns: Complex  # [ceil(Rh/2), rows]: cos and sin
    ramp: Complex | None  # [Rh, K]: the shear; None if nothing is sheared
    rows: Complex  # [ceil(Rw/2), K]: cos and -sin
    inside: Tensor | None  # [1, Rh, Rw]


def waves(rate: Tensor, count: int, first: float) -> Complex:
    """cos and sin of 2 pi rate (first + n) for n = 0 .. count-1: [T, count, K] float32, from turns [T, K] float64.

    By angle addition from the waves at every eighth n and at the eight first n.
    """
    n = torch.arange(8, dtype=rate.dtype)
    starts = first + 8 * torch.arange(-(-count // 8), dtype=rate.dtype)
    cos_a, sin_a = cis(rate[:, None, None] * starts[:, None, None])  # [T, count / 8, 1, K]
    cos_b, sin_b = cis(rate[:, None, None] * n[:, None])  # [T, 1, 8, K]
    cos = (cos_a * cos_b).addcmul_(sin_a, sin_b, value=-1).flatten(1, 2)
    sin = (sin_a * cos_b).addcmul_(cos_a, sin_b).flatten(1, 2)
    return cos[:, :count], sin[:, :count]


def cis(turns: Tensor) -> Complex:
    """cos and sin, float32, of an angle in float64 turns."""
    angle = 2 * math.pi * turns
    return torch.cos(angle).float(), torch.sin(angle).float()


def spectrum_factors(envelope: Tensor, views: Tensor, geometry: Geometry) -> tuple[Complex, Complex]:
    """Envelope, weight, normalisation, mask and the phase of the views' centres, for ky and for -ky: [T, rows, K]."""
    h, w = geometry.height, geometry.width
    k, kx = torch.arange(geometry.rows), torch.arange(geometry.columns)
    ty, tx, sigma = views[:, 0, None].double(), views[:, 1, None].double(), views[:, 4, None].double()
    cos_y, sin_y = (wave[:, :, None] for wave in cis(k * ((h - 1) / 2 + ty) / h))  # [T, rows, 1]
    cos_x, sin_x = (wave[:, None] for wave in cis(kx * ((w - 1) / 2 + tx + sigma * ty) / w))  # [T, 1, K]
    cc, ss, cs, sc = cos_y * cos_x, sin_y * sin_x, cos_y * sin_x, sin_y * cos_x  # [T, rows, K]
    weight = torch.where((kx == 0) | (2 * kx == w), 1.0, 2.0) / math.sqrt(h * w)
    positive = envelope[: geometry.rows, : geometry.columns] * weight * (2 * k != h)[:, None]  # [rows, K]
    negative = envelope[mirrored(geometry.rows, h, k.device), : geometry.columns] * weight * (k != 0)[:, None]
    if geometry.antialias:
        positive = positive * nyquist_mask(k, kx, views, geometry)  # [T, rows, K]
        negative = negative * nyquist_mask(-k, kx, views, geometry)
    return ((cc - ss).mul_(positive), (cs + sc).mul_(positive)), ((cc + ss).mul_(negative), (cs - sc).mul_(negative))


def factors(envelope: Tensor, views: Tensor, geometry: Geometry) -> list[Factors]:
    """What the views [T, 5] contribute, one after the other. envelope: [H, M]."""
    zy, zx, sigma = (views[:, n, None].double() for n in (2, 3, 4))
    k, kx = torch.arange(geometry.rows), torch.arange(geometry.columns)
    half_h, half_w = (geometry.out_height + 1) // 2, (geometry.out_width + 1) // 2
    positive, negative = spectrum_factors(envelope, views, geometry)
    columns = waves(zy * k / geometry.height, half_h, 0.5 * (1 - geometry.out_height % 2))
    cos_x, sin_x = waves(zx * kx / geometry.width, half_w, 0.5 * (1 - geometry.out_width % 2))
    ramp = None
    if bool(sigma.any()):
        ramp = waves(sigma * zy * kx / geometry.width, geometry.out_height, -(geometry.out_height - 1) / 2)
    inside = inside_mask(views, geometry) if geometry.border == "mask" else None

    def at(step: int, pair: Complex) -> Complex:
        return pair[0][step], pair[1][step]

    rows = cos_x, sin_x.neg_()
    return [
        Factors(
            at(n, positive),
            at(n, negative),
            at(n, columns),
            None if ramp is None else at(n, ramp),
            at(n, rows),
            None if inside is None else inside[n],
        )
        for n in range(len(views))
    ]


# --- The synthesis of one image.


class Workspace:
    """The arrays that the synthesis of an image and its adjoint write into. Nothing in them outlasts a call."""

    def __init__(self, geometry: Geometry, epilogue: Epilogue) -> None:
        g = self.geometry = geometry
        self.mix = epilogue.gain * epilogue.colour  # [3, 3]
        self.unmix = epilogue.gain * (epilogue.colour / epilogue.std[:, None]).t().contiguous()
        self.scale = (1 / epilogue.std)[:, None, None]
        self.offset = (-epilogue.mean / epilogue.std)[:, None, None]
        self.mirror = mirrored(g.rows, g.height, torch.device("cpu"))
        half_h, half_w = (g.out_height + 1) // 2, (g.out_width + 1) // 2
        self.negative_rows = torch.empty(3, 2, g.rows, g.width // 2 + 1, dtype=torch.float32)
        self.positive, self.negative = torch.empty(2, 3, 2, g.rows, g.columns, dtype=torch.float32)
        self.sum, self.difference = torch.empty(2, 3, 2, g.rows, g.columns, dtype=torch.float32)
        self.even_y, self.odd_y = torch.empty(2, 3, 2, half_h, g.columns, dtype=torch.float32)
        self.lower_y = torch.empty(3, 2, half_h, g.columns, dtype=torch.float32)
        self.y = torch.empty(3, 2, g.out_height, g.columns, dtype=torch.float32)
        self.real, self.imag = torch.empty(2, 3, g.out_height, g.columns, dtype=torch.float32)
        self.even_x, self.odd_x = torch.empty(2, 3, g.out_height, half_w, dtype=torch.float32)
        self.lower_x = torch.empty(3, g.out_height, half_w, dtype=torch.float32)
        self.field, self.mixed = torch.empty(2, 3, g.out_height, g.out_width, dtype=torch.float32)

    def forward(self, planes: Tensor, factors: Factors, view: Tensor, sigmoid: Tensor) -> None:
        """Fill the view [3 or 4, Rh, Rw] from the planes [3, 2, H, M] of a spectrum; and the sigmoid, for `adjoint`."""
        g = self.geometry
        torch.index_select(planes, 2, self.mirror, out=self.negative_rows)
        multiply(factors.positive, planes[:, :, : g.rows, : g.columns].unbind(1), self.positive.unbind(1))
        multiply(factors.negative, self.negative_rows[..., : g.columns].unbind(1), self.negative.unbind(1))
        # e^{i t} a + e^{-i t} b = cos t (a + b) + sin t i (a - b)
        torch.add(self.positive, self.negative, out=self.sum)
        torch.sub(self.negative[:, 1], self.positive[:, 1], out=self.difference[:, 0])
        torch.sub(self.positive[:, 0], self.negative[:, 0], out=self.difference[:, 1])
        cos, sin = factors.columns
        products(cos, self.sum, self.even_y)
        products(sin, self.difference, self.odd_y)
        unfold(self.even_y, self.odd_y, self.lower_y, self.y, 2)
        if factors.ramp is not None:
            multiply(factors.ramp, self.y.unbind(1), (self.real, self.imag))
        else:
            self.real.copy_(self.y[:, 0])
            self.imag.copy_(self.y[:, 1])
        cos, minus_sin = factors.rows
        torch.mm(self.real.flatten(0, 1), cos.t(), out=self.even_x.flatten(0, 1))
        torch.mm(self.imag.flatten(0, 1), minus_sin.t(), out=self.odd_x.flatten(0, 1))
        unfold(self.even_x, self.odd_x, self.lower_x, self.field, 2)
        torch.mm(self.mix, self.field.flatten(1), out=self.mixed.flatten(1))
        torch.sigmoid(self.mixed, out=sigmoid)
        torch.addcmul(self.offset, sigmoid, self.scale, out=self.mixed)
        if factors.inside is not None:
            self.mixed.mul_(factors.inside)
        # First the precision and then the order: together, they take over twice as long.
        view[:3].copy_(self.mixed.to(view.dtype))

    def adjoint(self, grad: Tensor, factors: Factors, sigmoid: Tensor, gradient: Tensor) -> None:
        """Fill the gradient of the planes [3, 2, H, M], where it is in play, from that of the view [3 or 4, Rh, Rw]."""
        g = self.geometry
        self.mixed.copy_(grad[:3].contiguous())  # first the order and then the precision, as above
        if factors.inside is not None:
            self.mixed.mul_(factors.inside)
        torch.ops.aten.sigmoid_backward.grad_input(self.mixed, sigmoid, grad_input=self.mixed)
        torch.mm(self.unmix, self.mixed.flatten(1), out=self.field.flatten(1))
        fold(self.field, self.lower_x, self.even_x, self.odd_x, 2)
        cos, minus_sin = factors.rows
        torch.mm(self.even_x.flatten(0, 1), cos, out=self.real.flatten(0, 1))
        torch.mm(self.odd_x.flatten(0, 1), minus_sin, out=self.imag.flatten(0, 1))
        if factors.ramp is not None:
            multiply_conj(factors.ramp, (self.real, self.imag), self.y.unbind(1))
        else:
            self.y[:, 0] = self.real
            self.y[:, 1] = self.imag
        fold(self.y, self.lower_y, self.even_y, self.odd_y, 2)
        cos, sin = factors.columns
        products(cos.t(), self.even_y, self.sum)
        products(sin.t(), self.odd_y, self.difference)
        # conj(i) = -i: sum - i difference for ky, sum + i difference for -ky
        torch.add(self.sum[:, 0], self.difference[:, 1], out=self.positive[:, 0])
        torch.sub(self.sum[:, 1], self.difference[:, 0], out=self.positive[:, 1])
        torch.sub(self.sum[:, 0], self.difference[:, 1], out=self.negative[:, 0])
        torch.add(self.sum[:, 1], self.difference[:, 0], out=self.negative[:, 1])
        gradient = gradient[..., : g.columns]
        multiply_conj(factors.positive, self.positive.unbind(1), gradient[:, :, : g.rows].unbind(1))
        multiply_conj(factors.negative, self.negative.unbind(1), self.sum.unbind(1))
        # The row of ky = -H/2 is written twice; the second, the negative frequency's, is its own.
        gradient[:, :, g.height - g.rows + 1 :] = self.sum[:, :, 1:].flip(2)


def multiply(factor: Complex, planes: Complex, out: Complex) -> None:
    """out = factor x planes [3, rows, K]."""
    (cos, sin), (real, imag) = factor, planes
    torch.mul(real, cos, out=out[0]).addcmul_(imag, sin, value=-1)
    torch.mul(imag, cos, out=out[1]).addcmul_(real, sin)


def multiply_conj(factor: Complex, planes: Complex, out: Complex) -> None:
    """out = conj(factor) x planes [3, rows, K]."""
    (cos, sin), (real, imag) = factor, planes
    torch.mul(real, cos, out=out[0]).addcmul_(imag, sin)
    torch.mul(imag, cos, out=out[1]).addcmul_(real, sin, value=-1)


def products(basis: Tensor, planes: Tensor, out: Tensor) -> None:
    """out = basis @ each of the planes [3, 2, inner, K]."""
    torch.bmm(basis.expand(6, -1, -1), planes.flatten(0, 1), out=out.flatten(0, 1))


def unfold(even: Tensor, odd: Tensor, lower: Tensor, out: Tensor, dim: int) -> None:
    """`reference.unfold` into `out`; `lower` is scratch, of the parts' shape."""
    size = out.shape[dim]
    torch.add(even, odd, out=out.narrow(dim, size // 2, (size + 1) // 2))
    torch.sub(even, odd, out=lower)
    out.narrow(dim, 0, size // 2).copy_(lower.narrow(dim, size % 2, size // 2).flip(dim))


def fold(full: Tensor, lower: Tensor, even: Tensor, odd: Tensor, dim: int) -> None:
    """`reference.fold` into `even` and `odd`; `lower` is scratch, of the parts' shape."""
    size = full.shape[dim]
    upper = full.narrow(dim, size // 2, (size + 1) // 2)
    if size % 2:
        lower.narrow(dim, 0, 1).zero_()
    lower.narrow(dim, size % 2, size // 2).copy_(full.narrow(dim, 0, size // 2).flip(dim))
    torch.add(upper, lower, out=even)
    torch.sub(upper, lower, out=odd)


# --- A batch, step by step.

# What lies ahead should stay in a cache of the second level: at 224 px, four steps took 301 us a step, eight 380.
AHEAD_BYTES = 5 << 19


class Ahead:
    """What one image's views contribute, made for several steps at once."""

    def __init__(self, geometry: Geometry) -> None:
        g = self.geometry = geometry
        floats = 4 * g.rows * g.columns + 2 * g.out_height * g.columns + g.out_height * g.rows + g.out_width * g.columns
        self.steps = max(1, min(8, AHEAD_BYTES // (4 * floats)))
        self.source: tuple[int, Tensor, Tensor] | None = None
        self.made: list[Factors] = []

    def at(self, envelope: Tensor, views: Tensor, image: int, step: int) -> Factors:
        """The factors of an image at a step; views: the table [steps, B, 5]."""
        first = step - step % self.steps
        held = self.source
        if held is None or held[0] != first or held[1] is not views or held[2] is not envelope:
            own = envelope if envelope.dim() == 2 else envelope[image]
            self.made = factors(own, views[first : first + self.steps, image], self.geometry)
            self.source = first, views, envelope
        return self.made[step - first]


class Batch:
    """The images of a batch, one after the other. `adjoint` follows `forward`."""

    def __init__(self, size: int, geometry: Geometry, epilogue: Epilogue) -> None:
        g = geometry
        self.ahead = [Ahead(geometry) for _ in range(size)]
        self.workspace = Workspace(geometry, epilogue)
        self.sigmoid = torch.empty(size, 3, g.out_height, g.out_width, dtype=torch.float32)
        self.gradient = torch.zeros(
            size, 3, 2, g.height, g.width // 2 + 1, dtype=torch.float32
        )  # stays zero beyond the band
        self.factors: list[Factors] = []

    def forward(self, planes: Tensor, envelope: Tensor, views: Tensor, step: int, out: Tensor) -> None:
        """Fill `out` [B, 3 or 4, Rh, Rw] from the planes [B, 3, 2, H, M]; views: the table [steps, B, 5]."""
        self.factors = [ahead.at(envelope, views, image, step) for image, ahead in enumerate(self.ahead)]
        out[:, 3:].zero_()  # the fourth plane, where there is one
        for image in zip(planes, self.factors, out, self.sigmoid, strict=True):
            self.workspace.forward(*image)

    def adjoint(self, grad: Tensor) -> Tensor:
        """The gradient of the planes [B, 3, 2, H, M] from that of the views; the next call overwrites it."""
        for image in zip(grad, self.factors, self.sigmoid, self.gradient, strict=True):
            self.workspace.adjoint(*image)
        return self.gradient


def adam_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    done: int,
    lr: Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Update a batch after `done` updates, each image with its own learning rate, as torch.optim.Adam would."""
    for image, gradient, first, second, rate in zip(param, grad, exp_avg, exp_avg_sq, lr.tolist(), strict=True):
        adam(
            [image],
            [gradient],
            [first],
            [second],
            [],
            [torch.tensor(float(done), dtype=torch.float32)],
            fused=True,
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=rate,
            weight_decay=0.0,
            eps=eps,
            maximize=False,
        )
