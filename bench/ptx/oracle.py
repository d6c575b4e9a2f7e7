"""What the kernels ought to compute, as dense float64 sums in numpy.

Written from the formulas in the docstrings of `fvfast_kernels.ops`; shares no code with the project.
"""

from __future__ import annotations

import math

import numpy as np

from bench.ptx.cases import BETAS, COLOUR, EPS, GAIN, MEAN, STD, Case


def _turn(a: np.ndarray) -> np.ndarray:
    return np.exp(2j * np.pi * a)


class Oracle:
    """Every intermediate of a case. Arrays: Y and dY complex [B, 3, Rh, M], images [B, 3, Rh, Rw]."""

    def __init__(self, case: Case, views: np.ndarray, envelope: np.ndarray):
        self._case, self._views = case, views.astype(np.float64)
        self._envelope = np.broadcast_to(envelope.astype(np.float64), (len(views), *envelope.shape[-2:]))
        rows = np.arange(case.height)
        self._ky = np.where(2 * rows < case.height, rows, rows - case.height)  # the Nyquist row is -H/2
        self._kx = np.arange(case.width // 2 + 1)

    def _factor(self, b: int) -> np.ndarray:
        """w envelope mask / sqrt(HW): [H, M]."""
        c, (_, _, zy, zx, sigma) = self._case, self._views[b]
        weight = np.where((self._kx == 0) | (2 * self._kx == c.width), 1.0, 2.0) / math.sqrt(c.height * c.width)
        out = self._envelope[b] * weight
        if c.antialias:
            limit = 0.5 + 2.0**-20
            rows = np.abs(zy * (self._ky[:, None] / c.height + sigma * self._kx / c.width)) <= limit
            out = out * (rows & (zx * self._kx / c.width <= limit))
        if c.band is not None:
            out = out * ((np.abs(self._ky) <= c.band)[:, None] & (self._kx <= c.band))
        return out

    def _phases(self, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """e^{..} of rows [Rh, H], of columns at the row's centre [Rh, M], of pixels [M, Rw]."""
        c, (ty, tx, zy, zx, sigma) = self._case, self._views[b]
        u = zy * (np.arange(c.out[0]) - (c.out[0] - 1) / 2)
        v = zx * (np.arange(c.out[1]) - (c.out[1] - 1) / 2)
        y = (c.height - 1) / 2 + u + ty
        x = (c.width - 1) / 2 + tx + sigma * (y - (c.height - 1) / 2)
        rows, centres = _turn(np.outer(y, self._ky) / c.height), _turn(np.outer(x, self._kx) / c.width)
        return rows, centres, _turn(np.outer(self._kx, v) / c.width)

    def _inside(self, b: int) -> np.ndarray:
        """Where a view with border="mask" shows the canvas."""
        c, (ty, tx, zy, zx, sigma) = self._case, self._views[b]
        if c.border == "wrap":
            return np.ones(c.out)
        y = zy * (np.arange(c.out[0]) - (c.out[0] - 1) / 2) + ty
        x = zx * (np.arange(c.out[1]) - (c.out[1] - 1) / 2) + sigma * y[:, None] + tx
        return ((np.abs(y) <= c.height / 2)[:, None] & (np.abs(x) <= c.width / 2)).astype(float)

    def columns(self, spectrum: np.ndarray) -> np.ndarray:
        """Y from the complex spectrum [B, 3, H, M]."""
        out = []
        for b in range(len(self._views)):
            rows, centre, _ = self._phases(b)
            out.append(np.einsum("ir,crk->cik", rows, spectrum[b] * self._factor(b)) * centre)
        return np.stack(out)

    def bases(self) -> tuple[np.ndarray, ...]:
        """cos, sin over folded view rows and |ky|; cos, -sin over kx and folded view columns: [B, 2, ...] each."""
        c = self._case
        k, kx = (np.arange(min(n // 2, n if c.band is None else c.band) + 1) for n in (c.height, c.width))
        u, v = (np.arange((n + 1) // 2) + 0.5 * (1 - n % 2) for n in c.out)
        rows = np.stack([_turn(zy * np.outer(u, k) / c.height) for _, _, zy, _, _ in self._views])
        columns = np.stack([_turn(-zx * np.outer(kx, v) / c.width) for _, _, _, zx, _ in self._views])
        return tuple(np.stack((np.real(table), np.imag(table)), 1) for table in (rows, columns))

    def rows(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sigmoid and the view from Y."""
        saved, views = [], []
        mean, std = MEAN.astype(np.float64)[:, None, None], STD.astype(np.float64)[:, None, None]
        for b in range(len(self._views)):
            field = np.einsum("cik,kj->cij", y[b], self._phases(b)[2]).real
            sigmoid = 1 / (1 + np.exp(-GAIN * np.einsum("oc,cij->oij", COLOUR.astype(np.float64), field)))
            saved.append(sigmoid)
            views.append((sigmoid - mean) / std * self._inside(b))
        return np.stack(saved), np.stack(views)

    def rows_adjoint(self, grad: np.ndarray, sigmoid: np.ndarray) -> np.ndarray:
        """dY as real + i imag, from the view's gradient: a field is a sum of real cos - imag sin."""
        out = []
        for b in range(len(self._views)):
            slope = sigmoid[b] * (1 - sigmoid[b]) * GAIN / STD.astype(np.float64)[:, None, None]
            field = np.einsum("oc,oij->cij", COLOUR.astype(np.float64), grad[b] * self._inside(b) * slope)
            out.append(np.einsum("cij,kj->cik", field, self._phases(b)[2].conj()))
        return np.stack(out)

    def columns_adjoint(self, dy: np.ndarray) -> np.ndarray:
        """The gradient by the spectrum's planes as real + i imag, [B, 3, H, M]."""
        out = []
        for b in range(len(self._views)):
            rows, centre, _ = self._phases(b)
            out.append(np.einsum("ir,cik->crk", rows.conj(), dy[b] * centre.conj()) * self._factor(b))
        return np.stack(out)


def adam(grad: np.ndarray, exp_avg: np.ndarray, exp_avg_sq: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both moments after an update."""
    return BETAS[0] * exp_avg + (1 - BETAS[0]) * grad, BETAS[1] * exp_avg_sq + (1 - BETAS[1]) * grad**2


def adam_step(exp_avg: np.ndarray, exp_avg_sq: np.ndarray, count: int, lr) -> np.ndarray:
    """What update number `count` subtracts, from its own moments."""
    correction = np.sqrt(exp_avg_sq / (1 - BETAS[1] ** count)) + EPS
    return lr / (1 - BETAS[0] ** count) * exp_avg / correction


class Sampling:
    """Bilinear sampling by one affine matrix [2, 3], and its adjoint, as sums over (output, input, weight)."""

    def __init__(self, matrix: np.ndarray, size: tuple[int, int], out_size: tuple[int, int], border: str | float):
        (h, w), (rh, rw) = size, out_size
        self._size, self._out_size = size, out_size
        i, j = np.meshgrid(np.arange(rh) - (rh - 1) / 2, np.arange(rw) - (rw - 1) / 2, indexing="ij")
        y = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] + (h - 1) / 2
        x = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] + (w - 1) / 2
        taps = []
        for dy in (0, 1):
            for dx in (0, 1):
                yy, xx = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
                weight = (1 - np.abs(y - yy)) * (1 - np.abs(x - xx))
                if border == "wrap":
                    yy, xx = yy % h, xx % w
                there = (yy >= 0) & (yy < h) & (xx >= 0) & (xx < w)
                taps.append((np.arange(rh * rw).reshape(rh, rw)[there], (yy * w + xx)[there], weight[there]))
        self._out, self._at, self._weight = (np.concatenate(part) for part in zip(*taps, strict=True))

    def forward(self, image: np.ndarray) -> np.ndarray:
        """[C, Rh, Rw] from [C, H, W]."""
        out = np.zeros((len(image), *self._out_size))
        for source, target in zip(image, out, strict=True):
            np.add.at(target.reshape(-1), self._out, self._weight * source.reshape(-1)[self._at])
        return out

    def adjoint(self, grad: np.ndarray) -> np.ndarray:
        """[C, H, W] from [C, Rh, Rw]."""
        out = np.zeros((len(grad), *self._size))
        for source, target in zip(grad, out, strict=True):
            np.add.at(target.reshape(-1), self._at, self._weight * source.reshape(-1)[self._out])
        return out
