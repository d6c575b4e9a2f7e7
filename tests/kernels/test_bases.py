"""The tables that the synthesis multiplies by, against float64; tiles that would read beyond them are refused."""

import math

import pytest
import torch
from fvfast_kernels import adam_
from fvfast_kernels.blocks import Tile, divides, tiles
from fvfast_kernels.geometry import Epilogue, Geometry

launch = pytest.importorskip("fvfast_kernels.launch", reason="triton is not installed", exc_type=ImportError)

VIEWS = ((3.2, -5.7, 1.05, 0.95, 0.1), (0.0, 300.5, 0.7, 1.3, -0.2))


def tables(geometry, precision, device):
    """Row and column basis of VIEWS as float64, what is rounded and what that left taken together."""
    spectrum = torch.zeros(len(VIEWS), 3, 2, geometry.height, geometry.width // 2 + 1, device=device)
    workspace = launch.Workspace.allocate(len(VIEWS), geometry, precision, device)
    for table in (workspace.row_basis, workspace.column_basis):
        table.fill_(math.nan)
    eye = torch.eye(3, device=device)
    plan = launch.Plan(geometry, Epilogue(eye, eye[0], eye[0], 0.25), precision == "exact")
    source = launch.Source(spectrum, spectrum[0, 0, 0], torch.tensor(VIEWS, device=device))
    launch.run((launch.bases_launch(source, workspace, plan),), spectrum.device)
    wholes = (t.double().cpu().unflatten(1, (-1, 2)).sum(1) for t in (workspace.row_basis, workspace.column_basis))
    return tuple(wholes)


# An angle below two turns is a float32 of 2^-23 turns; float16 rounds to 2^-12 of what is at most 1.
@pytest.mark.parametrize(("precision", "tolerance"), [("exact", 1.5e-6), ("fast", 2**-12 + 1.5e-6)])
@pytest.mark.parametrize(
    ("height", "width", "out", "band"), [(24, 21, (31, 18), None), (20, 280, (34, 18), None), (40, 40, (24, 40), 9)]
)
def test_bases_are_the_cosines_and_sines(device, height, width, out, band, precision, tolerance):
    geometry = Geometry(height, width, out[0], out[1], band)
    rows, columns = tables(geometry, precision, device)
    for n, (_, _, zy, zx, _) in enumerate(torch.tensor(VIEWS).double().tolist()):  # as float32 holds them
        for table, zoom, period, count, size, transposed in (
            (rows[n], zy, height, geometry.rows, out[0], False),
            (columns[n], zx, width, geometry.columns, out[1], True),
        ):
            offset = torch.arange((size + 1) // 2).double() + 0.5 * (1 - size % 2)
            angle = 2 * math.pi * zoom / period * offset[:, None] * torch.arange(count)
            want = torch.stack((angle.cos(), -angle.sin() if transposed else angle.sin()))
            want = want.transpose(1, 2) if transposed else want
            got = table[:, : want.shape[1], : want.shape[2]]
            assert (got - want).abs().max() < tolerance
            assert table.isfinite().all()  # the padding is multiplied by zeros


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("size", [1, 2, 7, 16, 31, 64, 65, 128, 130, 224, 299, 512, 1024])
def test_every_tile_of_the_table_divides_its_bases(size, exact):
    for band in (None, 0, 5):
        geometry = Geometry(size, size, size, size, band)
        for name, tile in tiles(geometry, exact).items():
            assert divides(name, tile, geometry), (name, tile)


def test_a_tile_that_reads_beyond_a_basis_is_refused():
    geometry = Geometry(32, 32, 32, 32)
    epilogue = Epilogue(torch.eye(3), torch.zeros(3), torch.ones(3), 0.25)
    plan = launch.Plan(geometry, epilogue, False, {"rows": Tile({"BI": 16, "BJ": 64, "BK": 16})})
    with pytest.raises(ValueError, match="rows: blocks"):
        plan.tiles()


def test_second_moment_is_not_rounded_with_beta2(device):
    """1 - 0.999 formed in float32 is 1.3e-5 off, and so was every second moment."""
    grad = torch.linspace(0.5, 2, 40, device=device)[None]
    param, exp_avg, exp_avg_sq = (torch.zeros_like(grad) for _ in range(3))
    step, lr = torch.ones(1, dtype=torch.int32, device=device), torch.full((1,), 0.1, device=device)
    adam_(param, grad, exp_avg, exp_avg_sq, step, lr, betas=(0.9, 0.999), backend="triton")
    torch.testing.assert_close(exp_avg_sq.double(), 0.001 * grad.double() ** 2, rtol=3e-7, atol=0)
    torch.testing.assert_close(exp_avg.double(), 0.1 * grad.double(), rtol=3e-7, atol=0)
