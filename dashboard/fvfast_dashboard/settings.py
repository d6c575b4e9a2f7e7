"""What `fvfast dashboard` hands to the app: which store and which results it shows. By environment variables."""

from __future__ import annotations

import os
from pathlib import Path

from fvfast.store import DEFAULT

STORE, RESULTS = "FVFAST_DASHBOARD_STORE", "FVFAST_DASHBOARD_RESULTS"
CODE = "FVFAST_DASHBOARD_CODE"
_HERE = Path(__file__).parent
SCRIPT = _HERE / "entry" / "streamlit_app.py"  # for `streamlit run`


def store_folder() -> Path:
    """The store's folder, which need not exist."""
    return Path(os.environ.get(STORE) or DEFAULT)


def allows_code() -> bool:
    """Whether pages may name Python modules, and files on the server's machine."""
    return bool(os.environ.get(CODE))


def results_folder() -> Path:
    """The folder of measured results, which need not exist.

    Where none is named: the checkout's bench/results, or, in an installed package, the copy that came with it.
    """
    named = os.environ.get(RESULTS)
    if named:
        return Path(named)
    checkout = _HERE.parent.parent / "bench" / "results"
    return checkout if checkout.is_dir() else _HERE / "results"
