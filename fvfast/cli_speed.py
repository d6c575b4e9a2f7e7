"""The command `fvfast speed`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from fvfast.cli_json import Json, tell
from fvfast.screen import Screen
from fvfast.tables import print_columns


def speed(
    model: Annotated[str, typer.Argument(help="As for `render`.")] = "efficientnet_lite0",
    layer: Annotated[
        str | None, typer.Argument(help="Whose channels are looked for (default: two thirds into the network).")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Width and height in px (default: the network's own).")] = None,
    seconds: Annotated[float, typer.Option(help="How long to measure.", min=1, max=600)] = 25,
    weights: Annotated[str, typer.Option(help="none (random), default, or a FILE.")] = "default",
    as_json: Json = False,
) -> None:
    """Measure this machine's processors: fvfast's step against the loop as a user of lucent runs it."""
    from fvfast.speed import measure
    from fvfast.stamps import line

    with Screen(quiet=as_json) as screen:

        def progress(part: float, what: str) -> None:
            if screen.console.is_terminal:
                screen.bar.update(screen.task, completed=part, total=1, count=what)
            else:  # whatever reads this line by line, such as the dashboard
                print(f"fvfast: {part:.0%} {what}", file=sys.stderr, flush=True)

        found = measure(
            model, layer, size=size, seconds=seconds, weights=weights, progress=progress, stop=screen.stopped
        )
    if as_json:
        tell(found)
        return
    rows = [_row(row, found["ratios"]) for row in found["rows"]]
    print(f"one step of one image, {found['model']} {found['layer']}, {found['size']} px, {found['dtype']}")
    print_columns(("", "ms p20", "p50", "p80", "steps/s", "faster"), rows, right=(1, 2, 3, 4, 5))
    if found["ratios"] is None:
        print("fvfast: the fast network differs from the plain one (see --json): no ratio is given", file=sys.stderr)
    print(line(found["machine"]))
    if found["ratios"] is None:
        raise typer.Exit(1)


def _row(row: dict[str, Any], ratios: dict[str, float] | None) -> tuple[str, ...]:
    ratio = (ratios or {}).get(row["way"])
    times = [f"{row[name]:.1f}" for name in ("p20_ms", "p50_ms", "p80_ms", "steps_per_s")]
    return (row["way"], *times, f"{ratio:.2f}x" if ratio else "")
