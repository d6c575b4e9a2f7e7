"""What can be rendered: the models that a page offers, and the layers of one, read by a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import streamlit as st

from fvfast.errors import FvfastError
from fvfast_dashboard import asking

# What the box offers; any other name that `fvfast models` lists can be typed.
MODELS = (
    "efficientnet_lite0",
    "googlenet",
    "resnet18",
    "resnet50",
    "vgg16",
    "densenet121",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_16",
)
DEFAULT_LAYER = "_blocks.7"  # of the bundled network: textures and patterns
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class LayerRow:
    """One layer: its dotted name, class, and size for an image of the network's own size (grid: "28x28", or "")."""

    name: str
    kind: str
    channels: int
    grid: str

    @property
    def label(self) -> str:
        """The layer as a line of the tree."""
        indent = "\u2003" * self.name.count(".")
        parts = (f"{indent}{self.name}", f"{self.channels} channels", self.grid, self.kind)
        return "  ·  ".join(part for part in parts if part)


def layers(model: str, code: bool) -> list[LayerRow]:
    """The layers of a model, in the order of the forward pass. Raises FvfastError.

    With random weights, which are enough to count channels; in a process of its own, since a network may do anything.
    """
    asking.check_model(model, "none", code)
    if model.startswith("-"):
        raise FvfastError(f"unknown model {model!r}; see `fvfast models`")
    rows, problem = _read(model)
    if problem:
        raise FvfastError(problem)
    return rows


@st.cache_data(max_entries=16, ttl=3600, show_spinner="Reading the network's layers")
def _read(model: str) -> tuple[list[LayerRow], str]:
    """Its layers, or what is wrong with it: kept as well, since asking takes seconds."""
    command = [sys.executable, "-P", "-m", "fvfast.cli", "layers", model, "--json"]
    try:
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, env=asking.environment(), check=False
        )
    except subprocess.TimeoutExpired:
        return [], f"{model} took longer than {TIMEOUT_S:.0f} s to load; its targets can be typed all the same"
    if found.returncode:
        lines = [line for line in found.stderr.strip().splitlines() if line] or ["it said nothing"]
        return [], lines[-1].removeprefix("fvfast: ").rstrip(".")
    rows = json.loads(found.stdout)["layers"]
    return [
        LayerRow(row["name"], row["kind"], row["channels"], f"{row['height']}x{row['width']}" if row["height"] else "")
        for row in rows
    ], ""


def matching(rows: list[LayerRow], text: str) -> list[LayerRow]:
    """The layers whose name or class contains every word of `text`."""
    words = text.lower().split()
    return [row for row in rows if all(word in f"{row.name} {row.kind}".lower() for word in words)]
