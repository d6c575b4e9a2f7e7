"""Runs the project's compiled kernels in the emulator of ptxrun.py and compares them with float64 formulas.

    python check.py [--arch 80 90] [--precision fast exact] [--size small | 224 | ...] [--json FILE]

One line per case: relative L2 errors, the largest error, and biases; violations below it. Exit status 1 if there
was any violation, or an error above LIMIT. The formulas here are dense sums written from the docstrings of
`fvfast_kernels.ops`, in numpy, and share no code with the project.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

import triton

from bench.ptx.compiling import compile_to_ptx
from fvfast_kernels import launch as project
from fvfast_kernels.geometry import Epilogue, Geometry
from bench.ptx.ptxrun import Kernel, Memory

LIMIT = {"exact": 6e-6, "fast": 1.5e-3}  # relative L2, every tensor
BETAS, EPS, GAIN = (0.9, 0.999), 1e-8, 0.25
COLOUR = np.array([[0.56, 0.19, 0.04], [0.58, 0.0, -0.09], [0.58, -0.18, 0.05]], np.float32) * 1.4
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True)
class Case:
    height: int
    width: int
    out: tuple[int, int]
    precision: str = "fast"
    layout: str = "nhwc4"
    shear: bool = True
    table: bool = True
    adam: bool = True
    antialias: bool = True
    band: int | None = None
    border: str = "wrap"
    phase: bool = False
    per_image: bool = False
    batch: int = 2
    dtype: str = "auto"  # of the view: float16 if nhwc4, else float32
    seed: int = 0


# --- The formulas, in float64.


class Reference:
    """Everything of a case by dense sums."""

    def __init__(self, case: Case, views: np.ndarray):
        self.case, self.views = case, views.astype(np.float64)
        h, w = case.height, case.width
        self.m = w // 2 + 1
        r = np.arange(h)
        self.ky = np.where(2 * r < h, r, r - h)  # the Nyquist row of an even height is -h/2
        self.kx = np.arange(self.m)

    def factor(self, b: int, envelope: np.ndarray) -> np.ndarray:
        """w envelope mask / sqrt(HW): [H, M]."""
        c, (_, _, zy, zx, sigma) = self.case, self.views[b]
        weight = np.where((self.kx == 0) | (2 * self.kx == c.width), 1.0, 2.0) / math.sqrt(c.height * c.width)
        out = envelope.astype(np.float64) * weight
        if c.antialias:
            limit = 0.5 + 2.0**-20
            rows = np.abs(zy * (self.ky[:, None] / c.height + sigma * self.kx / c.width)) <= limit
            out = out * (rows & (zx * self.kx / c.width <= limit))
        if c.band is not None:
            out = out * ((np.abs(self.ky) <= c.band)[:, None] & (self.kx <= c.band))
        return out

    def phases(self, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """e^{..} of rows [Rh, H], of columns at the row's centre [Rh, M], of pixels [M, Rw]."""
        c, (ty, tx, zy, zx, sigma) = self.case, self.views[b]
        u = zy * (np.arange(c.out[0]) - (c.out[0] - 1) / 2)
        v = zx * (np.arange(c.out[1]) - (c.out[1] - 1) / 2)
        y = (c.height - 1) / 2 + u + ty
        x = (c.width - 1) / 2 + tx + sigma * (y - (c.height - 1) / 2)
        turn = lambda a: np.exp(2j * np.pi * a)  # noqa: E731
        return turn(np.outer(y, self.ky) / c.height), turn(np.outer(x, self.kx) / c.width), turn(np.outer(self.kx, v) / c.width)

    def columns(self, spectrum, envelope) -> np.ndarray:
        """Y, complex [B, 3, Rh, M]."""
        out = []
        for b in range(len(self.views)):
            rows, centre, _ = self.phases(b)
            env = envelope if envelope.ndim == 2 else envelope[b]
            out.append(np.einsum("ir,crk->cik", rows, spectrum[b] * self.factor(b, env)) * centre)
        return np.stack(out)

    def inside(self, b: int) -> np.ndarray:
        c, (ty, tx, zy, zx, sigma) = self.case, self.views[b]
        if c.border == "wrap":
            return np.ones(c.out)
        y = zy * (np.arange(c.out[0]) - (c.out[0] - 1) / 2) + ty
        x = zx * (np.arange(c.out[1]) - (c.out[1] - 1) / 2) + sigma * y[:, None] + tx
        return ((np.abs(y) <= c.height / 2)[:, None] & (np.abs(x) <= c.width / 2)).astype(float)

    def rows(self, y) -> tuple[np.ndarray, np.ndarray]:
        """Sigmoid and view [B, 3, Rh, Rw] from Y."""
        saved, views = [], []
        for b in range(len(self.views)):
            f = np.einsum("cik,kj->cij", y[b], self.phases(b)[2]).real
            s = 1 / (1 + np.exp(-GAIN * np.einsum("oc,cij->oij", COLOUR.astype(np.float64), f)))
            saved.append(s)
            views.append((s - MEAN.astype(np.float64)[:, None, None]) / STD.astype(np.float64)[:, None, None] * self.inside(b))
        return np.stack(saved), np.stack(views)

    def rows_adjoint(self, grad, s) -> np.ndarray:
        """dY as real + i imag, [B, 3, Rh, M]: f = sum real cos - imag sin."""
        out = []
        for b in range(len(self.views)):
            g = grad[b] * self.inside(b) * s[b] * (1 - s[b]) * GAIN / STD.astype(np.float64)[:, None, None]
            df = np.einsum("oc,oij->cij", COLOUR.astype(np.float64), g)
            out.append(np.einsum("cij,kj->cik", df, self.phases(b)[2].conj()))
        return np.stack(out)

    def columns_adjoint(self, dy, envelope) -> np.ndarray:
        """The gradient by the spectrum's planes as real + i imag, [B, 3, H, M]."""
        out = []
        for b in range(len(self.views)):
            rows, centre, _ = self.phases(b)
            env = envelope if envelope.ndim == 2 else envelope[b]
            out.append(np.einsum("ir,cik->crk", rows.conj(), dy[b] * centre.conj()) * self.factor(b, env))
        return np.stack(out)


def adam64(param, grad, m, v, step, lr):
    m = BETAS[0] * m + (1 - BETAS[0]) * grad
    v = BETAS[1] * v + (1 - BETAS[1]) * grad**2
    return param - lr / (1 - BETAS[0] ** step) * m / (np.sqrt(v / (1 - BETAS[1] ** step)) + EPS), m, v


# --- Running.


def compile_for(launch, arch: int, options: dict) -> Kernel:
    text, shared = compile_to_ptx(launch, arch)
    return Kernel(text, shared, arch=arch, **options)


def flat(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's storage as an array."""
    return torch.as_strided(tensor.detach(), (tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0).view(
        torch.int16 if tensor.dtype == torch.bfloat16 else tensor.dtype
    ).numpy()  # fmt: skip


class Machine:
    """Memory of a case, and its launches."""

    def __init__(self, arch: int, options: dict):
        self.arch, self.options, self.memory, self.at = arch, options, Memory(), {}
        self.kernels: list[tuple[str, Kernel]] = []
        self.compiling = 0.0

    def put(self, name: str, tensor: torch.Tensor, role: str = "in") -> None:
        key = tensor.untyped_storage().data_ptr()
        if key not in self.at:
            self.at[key] = self.memory.add(name, flat(tensor), role)

    def run(self, launch, ctas=None) -> Kernel:
        began = time.time()
        kernel = compile_for(launch, self.arch, self.options)
        self.compiling += time.time() - began
        parameters = []
        for value in launch.arguments:
            if isinstance(value, torch.Tensor):
                parameters.append(self.at[value.untyped_storage().data_ptr()] + value.storage_offset() * value.element_size())
            elif not (isinstance(value, int) and value == 1):
                parameters.append(value)
        kernel.launch(self.memory, launch.grid, [*parameters, 0, 0], ctas)
        self.memory.fetch()
        self.kernels.append((launch.kernel.__name__, kernel))
        return kernel

    def unwritten(self, name: str) -> int:
        a = next(a for a in self.memory.allocations if a.name == name)
        return 2 * int((~a.ready[: a.size // 2]).sum())


def errors(got, want) -> dict:
    got, want = np.asarray(got), np.asarray(want)
    e = got - want
    if np.iscomplexobj(e):
        e, want = e.view(np.float64), np.ascontiguousarray(want).view(np.float64)
    rms = math.sqrt(float((want**2).mean())) or 1.0
    return {
        "l2": float(np.sqrt((e**2).mean()) / rms),
        "max": float(np.abs(e).max() / rms),
        "bias": float(e.mean() / rms),
        "gain": float((e * want).sum() / (want**2).sum()),
        "n": int(e.size),
    }


def tensors(case: Case):
    """Inputs of a case: random 1/f spectra that give a field of standard deviation about 3, random views."""
    r = np.random.default_rng(case.seed + 7919 * case.height + case.width)
    h, w, m, b = case.height, case.width, case.width // 2 + 1, case.batch
    ky = np.minimum(np.arange(h), h - np.arange(h)) / h
    envelope = 1 / np.maximum(np.hypot(ky[:, None], np.arange(m) / w), 1 / max(h, w))
    spectrum = r.standard_normal((b, 3, 2, h, m))
    power = ((np.where(np.arange(m) > 0, 2.0, 1.0) * envelope) ** 2).sum() / (h * w)
    envelope = envelope * (3 / math.sqrt(power))
    if case.per_image:
        envelope = np.stack([envelope * (1 + 0.3 * n) for n in range(b)])
    magnitude = None
    if case.phase:
        magnitude = np.abs(r.standard_normal((3, h, m))) if not case.per_image else np.abs(r.standard_normal((b, 3, h, m)))
        spectrum = r.uniform(-7, 7, (b, 3, h, m))
    views = np.stack((r.uniform(-200, 200, b), r.uniform(-200, 200, b), r.uniform(0.8, 1.4, b), r.uniform(0.8, 1.4, b),
                      r.uniform(-0.2, 0.2, b) if case.shear else np.zeros(b)), 1)  # fmt: skip
    if case.border == "mask":
        views[:, :2] = r.uniform(-5, 5, (b, 2))
    f32 = lambda a: torch.tensor(np.asarray(a, np.float32))  # noqa: E731
    views = f32(views)
    step = None
    if case.table:
        table = torch.full((3, b, 5), math.nan)
        table[1] = views
        step = torch.tensor([1], dtype=torch.int32)
    else:
        table = views
    return r, f32(spectrum), f32(envelope), table, views, step, None if magnitude is None else f32(magnitude)


def run_case(case: Case, arch: int, options: dict, ctas=None) -> dict:
    """Run the four kernels of a case; errors by tensor, findings by kernel. `ctas` picks some programs only."""
    started = time.time()
    r, spectrum, envelope, table, views, step, magnitude = tensors(case)
    b, g = case.batch, Geometry(case.height, case.width, *case.out, case.band, case.antialias, case.border)
    epilogue = Epilogue(torch.tensor(COLOUR), torch.tensor(MEAN), torch.tensor(STD), GAIN)
    dtype = {"auto": torch.float16 if case.layout == "nhwc4" else torch.float32, "f16": torch.float16, "f32": torch.float32}[case.dtype]
    plan = project.Plan(g, epilogue, case.precision == "exact")
    work = project.Workspace.allocate(b, g, case.precision, "cpu")
    view = project.empty_view(b, g, case.layout, dtype, torch.device("cpu"))
    source = project.Source(spectrum, envelope, table, step, magnitude, case.shear)
    machine, out = Machine(arch, options), {}
    machine.put("y", work.y, "out")
    machine.put("sigmoid", work.sigmoid, "out")
    machine.put("view", view, "out")
    machine.put("spectrum", spectrum, "inout" if case.adam else "in")
    for name, t in (("envelope", envelope), ("views", table), ("step", step), ("magnitude", magnitude),
                    ("colour", epilogue.colour), ("mean", epilogue.mean), ("std", epilogue.std)):  # fmt: skip
        if t is not None:
            machine.put(name, t)
    before = spectrum.numpy().astype(np.float64)
    planes = magnitude.numpy().astype(np.float64) * np.exp(1j * before) if case.phase else before[:, :, 0] + 1j * before[:, :, 1]
    reference, m = Reference(case, views.numpy()), g.columns
    env = envelope.numpy()
    missing = {}

    columns, rows = project.forward_launches(source, view, work, plan)
    machine.run(columns, ctas and ctas(columns))
    y = work.y.numpy().astype(np.float64)
    y_is, y_want = y[:, :, 0, :, :m] + 1j * y[:, :, 1, :, :m], reference.columns(planes, env)
    if not ctas:
        out["Y"] = errors(y_is, y_want[..., :m])
        missing["Y"] = machine.unwritten("y") + int(np.count_nonzero(y[..., m:]))
    else:
        done = np.isfinite(y_is)
        out["Y"] = errors(y_is[done], y_want[..., :m][done])
        fill = np.stack((y_want.real, y_want.imag), 2)
        work.y.numpy()[..., :m] = fill[..., :m]
        work.y.numpy()[..., m:] = 0
        restore(machine, "y", work.y)
        y_is = work.y.numpy()[:, :, 0, :, :m].astype(np.float64) + 1j * work.y.numpy()[:, :, 1, :, :m]
    machine.run(rows, ctas and ctas(rows))
    s_is, v_is = work.sigmoid.numpy().astype(np.float64), view.numpy().astype(np.float64)
    full = np.zeros(y_want.shape, complex)
    full[..., :m] = y_is
    s_own, v_own = reference.rows(full)  # of this Y
    s_want, v_want = reference.rows(y_want)
    done = np.isfinite(s_is)
    out["sigmoid|Y"], out["view|Y"] = errors(s_is[done], s_own[done]), errors(v_is[:, :3][done], v_own[done])
    if not ctas:
        out["sigmoid"], out["view"] = errors(s_is, s_want), errors(v_is[:, :3], v_want)
        missing["view"] = machine.unwritten("view") + machine.unwritten("sigmoid")
        if case.layout == "nhwc4":
            missing["fourth"] = int(np.count_nonzero(v_is[:, 3]))
    else:
        work.sigmoid.numpy()[:] = s_want
        restore(machine, "sigmoid", work.sigmoid)
        s_is = work.sigmoid.numpy().astype(np.float64)

    grad = torch.empty_strided(view.shape, view.stride(), dtype=dtype)
    grad[:, :3] = torch.tensor(r.standard_normal((b, 3, *case.out)), dtype=dtype) * 0.01
    if case.layout == "nhwc4":
        grad[:, 3] = math.nan  # of no interest to anybody
    machine.put("grad", grad)
    state = None
    target = spectrum
    if case.adam:
        exp_avg, exp_avg_sq = torch.zeros_like(spectrum), torch.zeros_like(spectrum)
        exp_avg[1:], exp_avg_sq[1:] = torch.tensor(r.standard_normal(spectrum[1:].shape)) * 1e-3, torch.tensor(r.random(spectrum[1:].shape)) * 1e-5
        lr = torch.tensor(np.linspace(0.05, 0.03, b), dtype=torch.float32)
        state = project.Adam(exp_avg, exp_avg_sq, lr, BETAS, EPS)
        for name, t in (("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)):
            machine.put(name, t, "inout")
        machine.put("lr", lr)
        m0, v0 = exp_avg.numpy().astype(np.float64), exp_avg_sq.numpy().astype(np.float64)
    else:
        target = torch.full_like(spectrum, math.nan) if case.band is None else torch.zeros_like(spectrum)
        machine.put("target", target, "out" if case.band is None else "inout")
    rows, columns = project.adjoint_launches(source, grad, target, work, plan, state)
    machine.run(rows, ctas and ctas(rows))
    g64 = grad[:, :3].numpy().astype(np.float64)
    dy = work.y.numpy().astype(np.float64)
    dy_is = dy[:, :, 0, :, :m] + 1j * dy[:, :, 1, :, :m]
    dy_own = reference.rows_adjoint(g64, s_is)
    if ctas:
        done = changed_y(machine, dy_is.shape, m)
        out["dY|s"] = errors(dy_is[done], dy_own[..., :m][done])
        work.y.numpy()[..., :m] = np.stack((dy_own.real, dy_own.imag), 2)[..., :m]
        restore(machine, "y", work.y)
        dy = work.y.numpy().astype(np.float64)
        dy_is = dy[:, :, 0, :, :m] + 1j * dy[:, :, 1, :, :m]
    else:
        out["dY|s"] = errors(dy_is, dy_own[..., :m])
    if case.adam:
        machine.run(columns, ctas and ctas(columns))
    else:
        machine.run(columns, ctas and ctas(columns))
        missing["gradient"] = 0 if case.band is not None else machine.unwritten("target")
    dy_full = np.zeros(dy_own.shape, complex)
    dy_full[..., :m] = dy_is
    g_own = reference.columns_adjoint(dy_full, env)
    g_want = reference.columns_adjoint(reference.rows_adjoint(g64, s_want), env)

    def planes_of(gradient):
        if case.phase:  # d/dphi of m e^{i phi}, against a gradient by the planes
            return (gradient.conj() * (1j * planes)).real
        return np.stack((gradient.real, gradient.imag), 2)

    g_own, g_want = planes_of(g_own), planes_of(g_want)
    if case.adam:
        new = exp_avg.numpy().astype(np.float64)
        picked = written(machine, "exp_avg", new.shape) if ctas else np.ones(new.shape, bool)
        if case.band is not None:
            picked = picked & (np.abs(g_want) > 0)
        first = picked & (np.arange(b) == 0).reshape(-1, *(1,) * (new.ndim - 1))
        out["grad|dY"] = errors(new[first] / (1 - BETAS[0]), g_own[first])
        if not ctas:
            out["grad"] = errors(new[first] / (1 - BETAS[0]), g_want[first])
        count = int(step) + 1 if step is not None else None
        rate = lr.numpy().astype(np.float64).reshape(-1, *(1,) * (new.ndim - 1))
        p, ea, ev = adam64(before, g_own, m0, v0, count, rate)
        out["exp_avg"] = errors(new[picked], ea[picked])
        out["exp_avg_sq"] = errors(exp_avg_sq.numpy().astype(np.float64)[picked], ev[picked])
        # The step from these moments: a gradient near 0 decides over the whole of a first step.
        ev_is = exp_avg_sq.numpy().astype(np.float64)
        moved = rate / (1 - BETAS[0] ** count) * new / (np.sqrt(ev_is / (1 - BETAS[1] ** count)) + EPS)
        after = spectrum.numpy().astype(np.float64)
        out["param"] = errors(after[picked], (before - moved)[picked])
        out["step"] = errors((before - after)[picked], moved[picked])
        untouched = ~picked if ctas or case.band is not None else np.zeros(picked.shape, bool)
        if case.band is not None:
            missing["untouched"] = int((after != before)[untouched & (g_want == 0) & ~in_play(case, g, new.shape)].sum())
    else:
        got = target.numpy().astype(np.float64)
        picked = np.isfinite(got) if ctas else np.ones(got.shape, bool)
        out["grad|dY"], out["grad"] = errors(got[picked], g_own[picked]), errors(got[picked], g_want[picked])
    return {"errors": out, "missing": missing, "kernels": machine.kernels, "half": dtype == torch.float16,
            "seconds": time.time() - started - machine.compiling, "machine": machine}


def in_play(case: Case, g: Geometry, shape):
    r = np.arange(case.height)
    ky = np.minimum(r, case.height - r)
    return np.broadcast_to((ky < g.rows)[:, None] & (np.arange(shape[-1]) < g.columns), shape)


def restore(machine: Machine, name: str, tensor: torch.Tensor) -> None:
    """Put a tensor's present values into the emulated memory."""
    a = next(a for a in machine.memory.allocations if a.name == name)
    a.data[: a.size] = flat(tensor).view(np.uint8)
    a.ready[:] = True


def written(machine: Machine, name: str, shape) -> np.ndarray:
    """Which float32 entries the last launch wrote."""
    a = next(a for a in machine.memory.allocations if a.name == name)
    return (a.writer[: a.size // 2 : 2] >= 0).reshape(shape)


def changed_y(machine: Machine, shape, m) -> np.ndarray:
    a = next(a for a in machine.memory.allocations if a.name == "y")
    padded = a.array.size // (shape[0] * shape[1] * 2 * shape[2])
    return written(machine, "y", (shape[0], shape[1], 2, shape[2], padded))[:, :, 0, :, :m]


# --- Warp and Adam on their own.


def taps(matrix, h, w, rh, rw, border):
    """Rows (output, input, weight) of the bilinear sampling matrix."""
    i, j = np.meshgrid(np.arange(rh) - (rh - 1) / 2, np.arange(rw) - (rw - 1) / 2, indexing="ij")
    y = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] + (h - 1) / 2
    x = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] + (w - 1) / 2
    y0, x0 = np.floor(y), np.floor(x)
    out, where, weight = [], [], []
    for dy in (0, 1):
        for dx in (0, 1):
            yy, xx = (y0 + dy).astype(int), (x0 + dx).astype(int)
            wgt = (1 - np.abs(y - yy)) * (1 - np.abs(x - xx))
            if border == "wrap":
                yy, xx = yy % h, xx % w
            ok = (yy >= 0) & (yy < h) & (xx >= 0) & (xx < w)
            out.append(np.arange(rh * rw).reshape(rh, rw)[ok])
            where.append((yy * w + xx)[ok])
            weight.append(wgt[ok])
    return np.concatenate(out), np.concatenate(where), np.concatenate(weight)


def run_warp(size, out_size, channels, border, dtype, arch, options) -> dict:
    started = time.time()
    r = np.random.default_rng(size[0] * 31 + channels)
    (h, w), (rh, rw), b = size, out_size, 2
    image = torch.tensor(r.standard_normal((b, channels, h, w)), dtype=dtype)
    angle, zoom = r.uniform(-0.6, 0.6, b), r.uniform(0.8, 1.4, b)
    matrix = np.zeros((b, 2, 3), np.float32)
    for n in range(b):
        c, s = zoom[n] * math.cos(angle[n]), zoom[n] * math.sin(angle[n])
        matrix[n] = [[c, s, r.uniform(-9, 9)], [-s, c + 0.05, r.uniform(-9, 9)]]
    machine, result = Machine(arch, options), {}
    out = torch.empty((b, channels, rh, rw), dtype=dtype)
    grad = torch.tensor(r.standard_normal((b, channels, rh, rw)), dtype=dtype)
    back = torch.empty_like(image)
    tm = torch.tensor(matrix)
    for name, t, role in (("image", image, "in"), ("matrix", tm, "in"), ("out", out, "out"), ("grad", grad, "in"), ("back", back, "out")):
        machine.put(name, t, role)
    machine.run(project.warp_launch(image, tm, out, border))
    machine.run(project.warp_adjoint_launch(grad, tm, back, border))
    fill = 0.0 if isinstance(border, str) else float(border)
    want, want_back = np.zeros(out.shape), np.zeros(image.shape)
    im, gr = image.double().numpy() - fill, grad.double().numpy()
    for n in range(b):
        o, i, wgt = taps(matrix[n].astype(np.float64), h, w, rh, rw, border)
        for c in range(channels):
            np.add.at(want[n, c].reshape(-1), o, wgt * im[n, c].reshape(-1)[i])
            np.add.at(want_back[n, c].reshape(-1), i, wgt * gr[n, c].reshape(-1)[o])
    result["warp"] = errors(out.double().numpy(), want + fill)
    result["warp_adjoint"] = errors(back.double().numpy(), want_back)
    missing = {"out": machine.unwritten("out"), "back": machine.unwritten("back")}
    return {"errors": result, "missing": missing, "kernels": machine.kernels, "seconds": time.time() - started}


def run_adam(size, arch, options, steps=(1, 250)) -> dict:
    started = time.time()
    r = np.random.default_rng(5)
    result, kernels = {}, []
    for step in steps:
        b = 2
        p, g = r.standard_normal((b, size)).astype(np.float32), (r.standard_normal((b, size)) * 1e-3).astype(np.float32)
        m, v = (r.standard_normal((b, size)) * 1e-3).astype(np.float32), (r.random((b, size)) * 1e-5).astype(np.float32)
        want = adam64(*(a.astype(np.float64) for a in (p, g, m, v)), step, np.array([[0.05], [0.02]]))
        tp, tg, tm, tv = (torch.tensor(a) for a in (p, g, m, v))
        ts, tl = torch.tensor([step], dtype=torch.int32), torch.tensor([0.05, 0.02])
        machine = Machine(arch, options)
        for name, t, role in (("param", tp, "inout"), ("grad", tg, "in"), ("m", tm, "inout"), ("v", tv, "inout"), ("step", ts, "in"), ("lr", tl, "in")):
            machine.put(name, t, role)
        machine.run(project.adam_launch(tp, tg, tm, tv, ts, tl, BETAS, EPS))
        for name, t, wanted in (("param", tp, want[0]), ("m", tm, want[1]), ("v", tv, want[2])):
            result[f"{name}@{step}"] = errors(t.double().numpy(), wanted)
        kernels += machine.kernels
    return {"errors": result, "missing": {}, "kernels": kernels, "seconds": time.time() - started}


# --- Cases.


def small_cases() -> list[Case]:
    out = []
    shapes = [(33, 40, (33, 40)), (48, 48, (48, 48)), (64, 64, (64, 64)), (96, 80, (56, 49))]
    for n, (h, w, size) in enumerate(shapes):
        for precision in ("fast", "exact"):
            for layout in ("nchw", "nhwc4"):
                flip = (n + (layout == "nchw") + (precision == "exact")) % 2 == 0
                table_or_no = True if n % 2 == 0 or layout == "nhwc4" else False
                out.append(Case(h, w, size, precision, layout, shear=flip or n == 3, table=table_or_no, adam=table_or_no, seed=n))
    # What the hot loop does not always use: bands, masks, phases, envelopes of each image, other view dtypes.
    for precision in ("fast", "exact"):
        out += [
            Case(48, 40, (41, 56), precision, "nhwc4", band=11, border="mask", seed=21),
            Case(33, 48, (40, 33), precision, "nchw", phase=True, per_image=True, antialias=False, seed=22),
            Case(40, 33, (64, 17), precision, "nhwc", border="mask", dtype="f16", shear=False, table=False, adam=False, per_image=True, seed=23),
            Case(96, 96, (96, 96), precision, "nhwc4", shear=True, batch=1, seed=24),
        ]
    return out


def some_ctas(launch):
    """First, last and middle programs of the first and the last image or channel."""
    x, y = launch.grid[:2]
    return [(a, c, 0) for c in sorted({0, y - 1}) for a in sorted({0, x // 2, x - 1})]


def describe(case: Case) -> str:
    flags = [n for n in ("shear", "table", "adam", "phase", "per_image") if getattr(case, n)]
    flags += ([] if case.antialias else ["no-antialias"]) + ([f"band{case.band}"] if case.band is not None else [])
    flags += ["mask"] if case.border == "mask" else []
    return f"{case.height}x{case.width}->{case.out[0]}x{case.out[1]} {case.precision} {case.layout} {'+'.join(flags)}"


def finish(name: str, result: dict, limit: float, totals: dict) -> None:
    e, bad = result["errors"], []
    for key, value in e.items():
        bound = LIMIT["fast"] if key.startswith("view") and result.get("half") else limit
        if key == "exp_avg_sq":
            bound = max(bound, 2e-5)  # 1 - 0.999 in float32 is 1.3e-5 off
        if not value["l2"] <= bound or not math.isfinite(value["max"]):
            bad.append(f"error of {key}: {value['l2']:.2e}")
    bad += [f"{n} entries of {k} unwritten or not zero" for k, n in result["missing"].items() if n]
    for kernel, k in result["kernels"]:
        for key, count in k.findings.items():
            kind = "NOTE" if key[0].startswith("register read") else "VIOLATION"
            text = f"{kind} {kernel}: {key[0]} at {key[1]} x{count} [{k.examples[key]}]"
            if kind == "NOTE":
                totals["notes"][f"{kernel}: {key[0]}"] = totals["notes"].get(f"{kernel}: {key[0]}", 0) + 1
            else:
                bad.append(text)
        for key, count in k.notes.items():
            totals["notes"][f"{kernel}: {key[0]}"] = totals["notes"].get(f"{kernel}: {key[0]}", 0) + count
    shown = " ".join(f"{k}={v['l2']:.1e}/{v['max']:.0e}/{v['bias']:+.0e}/{v['gain']:+.0e}" for k, v in e.items())
    issued = sum(int(k.issues.sum()) for _, k in result["kernels"])
    print(f"{'FAIL' if bad else 'ok  '} {name} [{result['seconds']:.0f}s, {issued} warp instr] {shown}", flush=True)
    for line in bad[:20]:
        print("     ", line, flush=True)
    totals["failed"] += bool(bad)
    totals["cases"] += 1
    totals["issued"] += issued


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[90, 80])
    parser.add_argument("--precision", nargs="+", default=["fast", "exact"])
    parser.add_argument("--size", default="small", help="small, or a square size such as 224 (a few programs) or 224full (all)")
    parser.add_argument("--only", default="", help="part of a case's description")
    parser.add_argument("--tensor-core", default="nearest", choices=("nearest", "truncate"))
    parser.add_argument("--noise", type=int, default=0, help="seed of random errors of the approximate instructions")
    parser.add_argument("--no-warp", action="store_true")
    parser.add_argument("--only-warp", action="store_true")
    parser.add_argument("--measure", action="store_true", help="count bank cycles and sectors too")
    parser.add_argument("--json", default="")
    o = parser.parse_args(arguments)
    options = {"tensor_core": o.tensor_core, "noise": o.noise, "measure": o.measure}
    totals = {"failed": 0, "cases": 0, "issued": 0, "notes": {}}
    print(f"# triton {triton.__version__}, torch {torch.__version__}; each tensor: relative L2 / max over rms / mean error over rms / gain error")
    if o.size == "small":
        cases, pick = small_cases(), None
    else:
        n = int(o.size.removesuffix("full"))
        pick = None if o.size.endswith("full") else some_ctas
        cases = [Case(n, n, (n, n), p, "nhwc4", batch=1 if pick is None else 2, seed=3) for p in ("fast", "exact")]
    log = []
    for arch in o.arch:
        for case in cases:
            if case.precision not in o.precision or o.only not in describe(case) or o.only_warp:
                continue
            result = run_case(case, arch, options, pick)
            finish(f"sm_{arch} {describe(case)}", result, LIMIT[case.precision], totals)
            log.append({"arch": arch, "case": asdict(case), "errors": result["errors"]})
        if o.size == "small" and not o.no_warp:
            for size, out_size, channels, border, dtype, limit in (
                ((33, 40), (33, 40), 3, "wrap", torch.float32, 2e-5), ((48, 48), (40, 57), 6, "zeros", torch.float32, 2e-5),
                ((40, 33), (21, 30), 3, 0.5, torch.float32, 2e-5), ((48, 40), (48, 40), 3, "wrap", torch.float16, 1e-3),
                ((48, 40), (48, 40), 5, "zeros", torch.bfloat16, 6e-3),
            ):  # fmt: skip
                try:
                    result = run_warp(size, out_size, channels, border, dtype, arch, options)
                except NotImplementedError as error:
                    print(f"not covered: sm_{arch} warp {dtype}: {error}")
                    continue
                finish(f"sm_{arch} warp {size}->{out_size} C={channels} border={border} {dtype}", result, limit, totals)
                log.append({"arch": arch, "case": f"warp {size} {border} {dtype}", "errors": result["errors"]})
            result = run_adam(5003, arch, options)
            finish(f"sm_{arch} adam", result, 2e-6, totals)
            log.append({"arch": arch, "case": "adam", "errors": result["errors"]})
    if o.json:
        json.dump({"triton": triton.__version__, "cases": log}, open(o.json, "w"))
    for name, count in sorted(totals["notes"].items()):
        print(f"note {name}: {count}")
    print(f"# {totals['cases']} cases, {totals['failed']} failed, {totals['issued']} warp instructions")
    return 1 if totals["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
