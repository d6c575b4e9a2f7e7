"""A case run in the emulator and compared with the oracle, kernel by kernel and from end to end.

An error named `X|Y` is that of X computed from the kernels' own Y; a plain `X` is that of the whole way so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fvfast_kernels import launch as launching
from fvfast_kernels.geometry import Epilogue, Geometry

from bench.ptx import oracle
from bench.ptx.cases import BETAS, COLOUR, EPS, GAIN, MEAN, STD, Case, Inputs, WarpCase
from bench.ptx.device import Device
from bench.ptx.machine import Place

Errors = dict[str, float]


def compare(got: np.ndarray, want: np.ndarray) -> Errors:
    """Relative L2 error, largest error and mean error over the root mean square, and error of the gain."""
    e = got - want
    if np.iscomplexobj(e):
        e, want = e.view(np.float64), np.ascontiguousarray(want).view(np.float64)
    rms = math.sqrt(float((want**2).mean())) or 1.0
    return {
        "l2": float(np.sqrt((e**2).mean()) / rms),
        "max": float(np.abs(e).max() / rms),
        "bias": float(e.mean() / rms),
        "gain": float((e * want).sum() / (want**2).sum()),
    }


@dataclass
class Result:
    """Errors by tensor; entries that ought to be written, or zero, and are not."""

    errors: dict[str, Errors] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)


def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


class Trial:
    """The kernels of a case, in their order.

    programs: which CTAs of a launch to run; None runs all. Where some are left out, each kernel's output is completed
    by the oracle's before the next kernel.
    """

    def __init__(self, case: Case, device: Device, programs: Callable[[Any], list[Place]] | None = None):
        self.case, self.device, self._programs = case, device, programs
        self.result = Result()
        self._inputs = i = Inputs.of(case)
        geometry = Geometry(case.height, case.width, *case.out, case.band, case.antialias, case.border)
        epilogue = Epilogue(torch.tensor(COLOUR), torch.tensor(MEAN), torch.tensor(STD), GAIN)
        self._geometry = geometry
        self._plan = launching.Plan(geometry, epilogue, case.precision == "exact")
        self._work = launching.Workspace.allocate(case.batch, geometry, case.precision, "cpu")
        cpu = torch.device("cpu")
        self._view = launching.empty_view(case.batch, geometry, case.layout, case.view_dtype, cpu)
        self._source = launching.Source(i.spectrum, i.envelope, i.table, i.step, i.magnitude, case.shear)
        self._oracle = oracle.Oracle(case, i.views.numpy(), i.envelope.numpy())
        for name, tensor in (vars(self._work) | {"view": self._view}).items():
            device.put(name, tensor, "out")
        device.put("spectrum", i.spectrum, "inout" if case.adam else "in")
        named = {"envelope": i.envelope, "views": i.table, "step": i.step, "magnitude": i.magnitude}
        for name, tensor in (named | vars(epilogue)).items():
            if isinstance(tensor, torch.Tensor):
                device.put(name, tensor)
        self._before = double(i.spectrum)
        if i.magnitude is None:
            self._planes = self._before[:, :, 0] + 1j * self._before[:, :, 1]
        else:
            self._planes = double(i.magnitude) * np.exp(1j * self._before)

    def run(self) -> Result:
        case, r = self.case, self._inputs.random
        bases, columns, rows = launching.forward_launches(self._source, self._view, self._work, self._plan)
        self._bases(bases)
        y_want = self._oracle.columns(self._planes)
        y = self._columns(columns, y_want)
        sigmoid_want, view_want = self._oracle.rows(y_want)
        sigmoid = self._rows(rows, y, sigmoid_want, view_want)

        grad = torch.empty_strided(self._view.shape, self._view.stride(), dtype=case.view_dtype)
        grad[:, :3] = torch.tensor(r.standard_normal((case.batch, 3, *case.out)), dtype=case.view_dtype) * 0.01
        if case.layout == "nhwc4":
            grad[:, 3] = math.nan  # of no interest to anybody
        self.device.put("grad", grad)
        target, state = self._target()
        rows, columns = launching.adjoint_launches(self._source, grad, target, self._work, self._plan, state)
        dy = self._rows_adjoint(rows, double(grad[:, :3]), sigmoid)
        dy_want = self._oracle.rows_adjoint(double(grad[:, :3]), sigmoid_want)
        own, want = (self._by_planes(self._oracle.columns_adjoint(one)) for one in (dy, dy_want))
        if state is None:
            self._gradient(columns, target, own, want)
        else:
            self._update(columns, state, own, want)
        return self.result

    def _launch(self, launch: Any) -> None:
        self.device.run(launch, None if self._programs is None else self._programs(launch))

    def _y(self) -> np.ndarray:
        """Y as it is, complex: the columns in play."""
        y = double(self._work.y)[..., : self._geometry.columns]
        return y[:, :, 0] + 1j * y[:, :, 1]

    def _all_columns(self, y: np.ndarray) -> np.ndarray:
        """Columns in play, and zeros up to the width of the half-spectrum."""
        beyond = np.zeros((*y.shape[:-1], self.case.columns - y.shape[-1]))
        return np.concatenate((y, beyond), -1)

    def _complete_y(self, want: np.ndarray) -> None:
        """Puts the oracle's columns in play in the place of the kernel's."""
        y = self._work.y.numpy()
        y[:] = 0
        y[..., : self._geometry.columns] = np.stack((np.real(want), np.imag(want)), 2)
        self.device.update("y", self._work.y)

    def _bases(self, launch: Any) -> None:
        """All programs, whatever `programs` says: the other kernels read all of it."""
        self.device.run(launch)
        for name, want in zip(("row_basis", "column_basis"), self._oracle.bases(), strict=True):
            planes = double(getattr(self._work, name))
            got = planes[:, :2] + (planes[:, 2:] if self._plan.exact else 0)  # what was rounded, and what that left
            got = got[..., : want.shape[-2], : want.shape[-1]]
            self.result.errors[name] = compare(got, want)
            self.result.missing[name] = self.device.unwritten(name) + int(np.count_nonzero(~np.isfinite(planes)))

    def _columns(self, launch: Any, want: np.ndarray) -> np.ndarray:
        self._launch(launch)
        y, want = self._y(), want[..., : self._geometry.columns]
        done = np.isfinite(y)
        self.result.errors["Y"] = compare(y[done], want[done])
        if self._programs is not None:
            self._complete_y(want)
            return self._all_columns(self._y())
        padding = double(self._work.y)[..., self._geometry.columns :]
        self.result.missing["Y"] = self.device.unwritten("y") + int(np.count_nonzero(padding))
        return self._all_columns(y)

    def _rows(self, launch: Any, y: np.ndarray, sigmoid_want: np.ndarray, view_want: np.ndarray) -> np.ndarray:
        self._launch(launch)
        sigmoid, view, errors = self._sigmoid(), double(self._view), self.result.errors
        sigmoid_own, view_own = self._oracle.rows(y)
        done = np.isfinite(sigmoid)
        errors["sigmoid|Y"] = compare(sigmoid[done], sigmoid_own[done])
        errors["view|Y"] = compare(view[:, :3][done], view_own[done])
        if self._programs is not None:
            for half, columns in enumerate(self._halves()):
                self._work.sigmoid[:, :, half, :, : len(columns)] = torch.tensor(sigmoid_want[..., columns])
            self.device.update("sigmoid", self._work.sigmoid)
            return self._sigmoid()
        errors["sigmoid"], errors["view"] = compare(sigmoid, sigmoid_want), compare(view[:, :3], view_want)
        self.result.missing["view"] = self.device.unwritten("view") + int(np.count_nonzero(~np.isfinite(sigmoid)))
        if self.case.layout == "nhwc4":
            self.result.missing["fourth channel"] = int(np.count_nonzero(view[:, 3]))
        return sigmoid

    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        """The view's columns as `rows` keeps the sigmoid: from the middle to the right, and to the left."""
        width = self.case.out[1]
        index = np.arange((width + 1) // 2)
        return width // 2 + index, (width - 1) // 2 - index

    def _sigmoid(self) -> np.ndarray:
        """The sigmoid [B, 3, Rh, Rw] out of its two halves."""
        kept = double(self._work.sigmoid)
        whole = np.full((*kept.shape[:2], *self.case.out), np.nan)
        for half, columns in enumerate(self._halves()):
            whole[..., columns] = kept[:, :, half, :, : len(columns)]
        return whole

    def _target(self) -> tuple[torch.Tensor, launching.Adam | None]:
        """Where the gradient goes: into the spectrum by Adam, whose first image has no history, or into a tensor."""
        case, r, spectrum = self.case, self._inputs.random, self._inputs.spectrum
        if not case.adam:
            # Beyond a band nothing is written.
            target = torch.zeros_like(spectrum) if case.band is not None else torch.full_like(spectrum, math.nan)
            self.device.put("target", target, "out" if case.band is None else "inout")
            return target, None
        exp_avg, exp_avg_sq = torch.zeros_like(spectrum), torch.zeros_like(spectrum)
        exp_avg[1:] = torch.tensor(r.standard_normal(spectrum[1:].shape)) * 1e-3
        exp_avg_sq[1:] = torch.tensor(r.random(spectrum[1:].shape)) * 1e-5
        lr = torch.tensor(np.linspace(0.05, 0.03, case.batch), dtype=torch.float32)
        self.device.put("exp_avg", exp_avg, "inout")
        self.device.put("exp_avg_sq", exp_avg_sq, "inout")
        self.device.put("lr", lr)
        return spectrum, launching.Adam(exp_avg, exp_avg_sq, lr, BETAS, EPS)

    def _rows_adjoint(self, launch: Any, grad: np.ndarray, sigmoid: np.ndarray) -> np.ndarray:
        self._launch(launch)
        dy, own = self._y(), self._oracle.rows_adjoint(grad, sigmoid)[..., : self._geometry.columns]
        if self._programs is None:
            self.result.errors["dY|s"] = compare(dy, own)
            return self._all_columns(dy)
        written = self.device.written("y", tuple(self._work.y.shape))[:, :, 0, :, : self._geometry.columns]
        self.result.errors["dY|s"] = compare(dy[written], own[written])
        self._complete_y(own)
        return self._all_columns(self._y())

    def _by_planes(self, gradient: np.ndarray) -> np.ndarray:
        """The gradient by what is learnt: the spectrum's planes, or the phase of m e^{i phi}."""
        if self.case.phase:
            return np.real(gradient.conj() * (1j * self._planes))
        return np.stack((np.real(gradient), np.imag(gradient)), 2)

    def _gradient(self, launch: Any, target: torch.Tensor, own: np.ndarray, want: np.ndarray) -> None:
        self._launch(launch)
        got = double(target)
        done = np.isfinite(got)
        self.result.errors["grad|dY"] = compare(got[done], own[done])
        if self._programs is None:
            self.result.errors["grad"] = compare(got, want)
            self.result.missing["gradient"] = 0 if self.case.band is not None else self.device.unwritten("target")

    def _update(self, launch: Any, state: launching.Adam, own: np.ndarray, want: np.ndarray) -> None:
        case, i, errors = self.case, self._inputs, self.result.errors
        before_avg, before_sq = double(state.exp_avg), double(state.exp_avg_sq)
        self._launch(launch)
        exp_avg, exp_avg_sq, after = double(state.exp_avg), double(state.exp_avg_sq), double(i.spectrum)
        shape = exp_avg.shape
        picked = np.ones(shape, bool) if self._programs is None else self.device.written("exp_avg", shape)
        if case.band is not None:
            picked = picked & (np.abs(want) > 0)
            beyond = ~picked & (want == 0) & ~self._in_play(shape)
            self.result.missing["untouched beyond the band"] = int((after != self._before)[beyond].sum())
        first = picked & (np.arange(case.batch) == 0).reshape(-1, *(1,) * (len(shape) - 1))
        errors["grad|dY"] = compare(exp_avg[first] / (1 - BETAS[0]), own[first])
        if self._programs is None:
            errors["grad"] = compare(exp_avg[first] / (1 - BETAS[0]), want[first])
        avg_want, sq_want = oracle.adam(own, before_avg, before_sq)
        errors["exp_avg"] = compare(exp_avg[picked], avg_want[picked])
        errors["exp_avg_sq"] = compare(exp_avg_sq[picked], sq_want[picked])
        # The step from these very moments: in a first step, a gradient near 0 decides over the whole of it.
        rate = double(state.lr).reshape(-1, *(1,) * (len(shape) - 1))
        count = 1 if i.step is None else int(i.step) + 1
        step = oracle.adam_step(exp_avg, exp_avg_sq, count, rate)
        errors["param"] = compare(after[picked], (self._before - step)[picked])
        errors["step"] = compare((self._before - after)[picked], step[picked])

    def _in_play(self, shape: tuple[int, ...]) -> np.ndarray:
        rows = np.arange(self.case.height)
        ky = np.minimum(rows, self.case.height - rows)
        g = self._geometry
        return np.broadcast_to((ky < g.rows)[:, None] & (np.arange(shape[-1]) < g.columns), shape)


def run_warp(case: WarpCase, device: Device) -> Result:
    """The affine gather and its adjoint."""
    r = np.random.default_rng(case.size[0] * 31 + case.channels)
    image = torch.tensor(r.standard_normal((2, case.channels, *case.size)), dtype=case.dtype)
    grad = torch.tensor(r.standard_normal((2, case.channels, *case.out)), dtype=case.dtype)
    matrix = np.zeros((2, 2, 3), np.float32)
    for n in range(2):
        angle, zoom = r.uniform(-0.6, 0.6), r.uniform(0.8, 1.4)
        cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
        matrix[n] = [[cos, sin, r.uniform(-9, 9)], [-sin, cos + 0.05, r.uniform(-9, 9)]]
    matrices, out, back = torch.tensor(matrix), torch.empty_like(grad), torch.empty_like(image)
    for name, tensor, role in (
        ("image", image, "in"), ("matrix", matrices, "in"), ("grad", grad, "in"), ("out", out, "out"),
        ("back", back, "out"),
    ):  # fmt: skip
        device.put(name, tensor, role)
    device.run(launching.warp_launch(image, matrices, out, case.border))
    device.run(launching.warp_adjoint_launch(grad, matrices, back, case.border))
    fill = 0.0 if isinstance(case.border, str) else float(case.border)
    samplings = [oracle.Sampling(one.astype(np.float64), case.size, case.out, case.border) for one in matrix]
    want = np.stack([s.forward(x - fill) + fill for s, x in zip(samplings, double(image), strict=True)])
    want_back = np.stack([s.adjoint(x) for s, x in zip(samplings, double(grad), strict=True)])
    errors = {"warp": compare(double(out), want), "warp_adjoint": compare(double(back), want_back)}
    return Result(errors, {"warp": device.unwritten("out"), "warp_adjoint": device.unwritten("back")})


def run_adam(size: int, count: int, device: Device) -> Result:
    """The stand-alone update number `count` of two images."""
    r = np.random.default_rng(5)
    state = {"param": r.standard_normal((2, size)), "exp_avg": r.standard_normal((2, size)) * 1e-3}
    state["exp_avg_sq"] = r.random((2, size)) * 1e-5
    tensors = {name: torch.tensor(value, dtype=torch.float32) for name, value in state.items()}
    grad = torch.tensor(r.standard_normal((2, size)) * 1e-3, dtype=torch.float32)
    step, lr = torch.tensor([count], dtype=torch.int32), torch.tensor([0.05, 0.02])
    param, exp_avg, exp_avg_sq = (double(tensor) for tensor in tensors.values())
    exp_avg, exp_avg_sq = oracle.adam(double(grad), exp_avg, exp_avg_sq)
    param = param - oracle.adam_step(exp_avg, exp_avg_sq, count, double(lr)[:, None])
    for name, tensor in tensors.items():
        device.put(name, tensor, "inout")
    for name, tensor in (("grad", grad), ("step", step), ("lr", lr)):
        device.put(name, tensor)
    device.run(
        launching.adam_launch(tensors["param"], grad, tensors["exp_avg"], tensors["exp_avg_sq"], step, lr, BETAS, EPS)
    )
    want = {"param": param, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    return Result({name: compare(double(tensors[name]), value) for name, value in want.items()})
