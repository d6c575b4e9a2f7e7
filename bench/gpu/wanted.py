"""Every kernel that the report's stages will launch, as launches on tensors that have shapes and no memory.

What is compiled for a launch hangs on more than its shape: an argument of 1 is a constant, and a multiple of 16 is
known to be one. So a batch stands here for all of its kind: 1, 16, or 3 for any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from fvfast_kernels import launch
from fvfast_kernels.blocks import Tile
from fvfast_kernels.geometry import Epilogue, Geometry
from fvfast_kernels.launch import Launch

from bench.alternatives import candidates
from bench.gpu.sanitizer import HEIGHT, LAYOUTS, OUT, WIDTH

HALF = torch.bfloat16  # what a render on a GPU computes in


@dataclass(frozen=True)
class Shape:
    """One way to use the synthesis: canvas and view in pixels, [H, W]; the rest as `fvfast_kernels.synthesize` says.

    table: whether views are a table of steps; adam: whether the adjoint updates the spectrum, or returns a gradient,
    or (None) does not run.
    """

    canvas: tuple[int, int]
    view: tuple[int, int]
    batch: int = 3
    precision: str = "exact"
    dtype: torch.dtype = torch.float32
    layout: str = "nhwc"
    table: bool = True
    adam: bool | None = True
    phase: bool = False
    tile: tuple[str, Tile] | None = None  # of one kernel, in place of the table's


def square(size: int, **more) -> Shape:
    """A shape whose canvas and view are squares of one size."""
    return Shape((size, size), (size, size), **more)


def engine(size: int, batches: Iterable[int], halves: bool = True, singles: bool = True) -> Iterator[Shape]:
    """What a render of the default recipe launches: its loop in half precision, in float32, and its canvas."""
    for batch in batches:
        if halves:
            for layout in ("nhwc4", "nhwc"):
                yield square(size, batch=batch, precision="fast", dtype=HALF, layout=layout)
        if singles:
            yield square(size, batch=batch)
        yield square(size, batch=batch, layout="nchw", table=False, adam=None)


def measured(size: int, batches: Iterable[int]) -> Iterator[Shape]:
    """What bench.kernels launches: the table's tiles and the others to try."""
    geometry = Geometry(size, size, size, size)
    for batch in batches:
        for precision in ("fast", "exact"):
            shape = square(size, batch=batch, precision=precision, dtype=HALF, layout="nhwc4")
            yield shape
            for name, tiles in candidates(geometry, precision == "exact").items():
                yield from (replace(shape, tile=(name, tile)) for tile in tiles[1:])


def smoked() -> Iterator[Shape]:
    """What bench.gpu.smoke's small renders launch."""
    yield from engine(64, (1, 3))
    for batch in (1, 3):
        for dtype in (HALF, torch.float16, torch.float32):
            for layout in ("nhwc4", "nhwc"):
                precision = "exact" if dtype == torch.float32 else "fast"
                yield square(64, batch=batch, precision=precision, dtype=dtype, layout=layout)
        # By autograd: views one by one, a gradient, phases too.
        for phase in (False, True):
            for layout, dtype in (("nhwc", HALF), ("nhwc4", HALF), ("nchw", torch.float32), ("nhwc", torch.float32)):
                for table in (False, True):
                    shape = square(64, batch=batch, dtype=dtype, layout=layout, table=table, phase=phase)
                    yield replace(shape, adam=table)
    yield from engine(96, (1, 3), singles=False)


def sanitized() -> Iterator[Shape]:
    """What bench.gpu.sanitizer launches under compute-sanitizer."""
    canvas = (HEIGHT, WIDTH)
    for precision in ("exact", "fast"):
        for layout in LAYOUTS:
            yield Shape(canvas, OUT, precision=precision, dtype=torch.float16, layout=layout)
        yield Shape(canvas, OUT, precision=precision, layout="nchw", table=False, adam=False, phase=True)


def tested() -> Iterator[Shape]:
    """What the tests marked `gpu` launch at their sizes (tests/kernels/test_gpu.py)."""
    for canvas, view in ((64, 64), (225, 224), (512, 299), (768, 1024), (1024, 768)):
        for precision in ("exact", "fast"):
            shape = Shape((canvas, canvas), (view, view), precision=precision, layout="nchw", table=False, adam=False)
            yield shape
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for layout in ("nchw", "nhwc", "nhwc4"):
            yield Shape((96, 96), (80, 96), dtype=dtype, layout=layout, table=False, adam=False)
    for batch in (1, 3, 16):
        yield square(64, batch=batch, layout="nchw", table=False, adam=False)
    for precision in ("exact", "fast"):
        yield square(224, precision=precision, dtype=torch.float16, layout="nhwc4")


def all_shapes(quick: bool = False) -> Iterator[Shape]:
    """The shapes of every stage, those of the stages of most worth first."""
    yield from smoked()
    yield from engine(224, (1, 16))
    yield from measured(224, (1, 16))
    if quick:
        return
    yield from sanitized()
    yield from engine(512, (16,), singles=False)
    yield from measured(512, (16,))
    yield from engine(224, (3,), halves=False)
    yield from tested()


def launches(shape: Shape) -> Iterator[Launch]:
    """The launches of one use of the synthesis, on the meta device."""
    (height, width), (out_height, out_width), batch = shape.canvas, shape.view, shape.batch
    geometry = Geometry(height, width, out_height, out_width)
    planes = () if shape.phase else (2,)
    spectrum = _empty(batch, 3, *planes, height, width // 2 + 1)
    magnitude = _empty(3, height, width // 2 + 1) if shape.phase else None
    views = _empty(100, batch, 5) if shape.table else _empty(batch, 5)
    step = _empty(1, dtype=torch.int32) if shape.table else None
    source = launch.Source(spectrum, _empty(height, width // 2 + 1), views, step, magnitude)
    others = dict([shape.tile]) if shape.tile else None
    epilogue = Epilogue(_empty(3, 3), _empty(3), _empty(3), 0.25)
    plan = launch.Plan(geometry, epilogue, shape.precision == "exact", others)
    workspace = launch.Workspace.allocate(batch, geometry, shape.precision, "meta")
    view = launch.empty_view(batch, geometry, shape.layout, shape.dtype, torch.device("meta"))
    found = [*launch.forward_launches(source, view, workspace, plan)]
    if shape.adam is not None:
        adam = launch.Adam(spectrum, spectrum, _empty(batch)) if shape.adam else None
        found += launch.adjoint_launches(source, view, spectrum, workspace, plan, adam)
    # Another tile is one kernel's alone.
    yield from (one for one in found if shape.tile is None or one.kernel.__name__ == shape.tile[0])


def warps(sizes: Iterable[int]) -> Iterator[Launch]:
    """Rotations and stand-alone updates, for the recipes and parameterisations that need them."""
    for size in sizes:
        for batch in (1, 3):
            image, matrix = _empty(batch, 3, size, size), _empty(batch, 2, 3)
            for border in ("wrap", 0.5, 0.0):
                yield launch.warp_launch(image, matrix, image, border)
                yield launch.warp_adjoint_launch(image, matrix, image, border)
            step = _empty(1, dtype=torch.int32)
            yield launch.adam_launch(image, image, image, image, step, _empty(batch), (0.9, 0.999), 1e-8)


def all_launches(quick: bool = False) -> list[Launch]:
    """Every launch of every stage, each kind once."""
    kinds: dict[tuple, Launch] = {}
    for shape in all_shapes(quick):
        for one in launches(shape):
            kinds.setdefault(_kind(one), one)
    for one in warps((64, 224)):
        kinds.setdefault(_kind(one), one)
    return list(kinds.values())


def _kind(one: Launch) -> tuple:
    """What tells apart launches that are compiled apart."""
    arguments = tuple(_sort_of(argument) for argument in one.arguments)
    return one.kernel.__name__, arguments, tuple(sorted(one.constants.items()))


def _sort_of(argument: object) -> str:
    """What triton knows of an argument when it compiles."""
    if isinstance(argument, torch.Tensor):
        return str(argument.dtype)
    if isinstance(argument, int):
        return "one" if argument == 1 else "of 16" if argument % 16 == 0 else "any"
    return "float"


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
