"""How the dashboard looks: Streamlit's options for it, and the colours that its charts share."""

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).parent / "theme.toml"


def theme_options() -> dict[str, str]:
    """Streamlit options that `streamlit run` is given as flags: `--theme.base FILE`, ..."""
    return {"theme.base": str(FILE), "client.toolbarMode": "minimal"}
