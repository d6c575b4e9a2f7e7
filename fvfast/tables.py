"""Tables and figures on a terminal, in plain text that can be piped."""

from __future__ import annotations


def print_columns(header: tuple[str, ...] | None, rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    """Print rows in columns as wide as their widest entry; `right`: which of them are aligned to the right."""
    every = [header, *rows] if header else rows
    widths = [max(len(row[i]) for row in every) for i in range(len(every[0]))]
    for row in every:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def figure(value: float) -> str:
    """An objective for people: three decimals, or where these would show nothing, three digits."""
    return f"{value:.3f}" if value == 0 or not abs(value) < 0.01 else f"{value:.2e}"
