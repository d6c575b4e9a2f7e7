"""`lucent.misc.channel_reducer`: the channels of activations, in a few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fvfast.errors import FvfastError, did_you_mean

Array = np.ndarray[Any, Any]


class BadReduction(FvfastError, ValueError):
    """A reduction that there is not. lucent raises ValueError, which scripts may wait for."""


class ChannelReducer:
    """A decomposition of scikit-learn's along the last axis of activations [..., C], which become [..., n_components].

    n_components: 1 or more. reduction_alg: the name of a class in sklearn.decomposition ("NMF", "PCA", "FastICA", ...),
    or a class like these; options: for it. Called, it fits the first time, and transforms by that fit from then on.
    What a fit found has its name without the underscore: `reducer.components` is [n_components, C].
    """

    def __init__(self, n_components: int = 3, reduction_alg: str | type[Any] = "NMF", **options: Any) -> None:
        if not isinstance(n_components, int) or n_components < 1:
            raise BadReduction(f"n_components must be a whole number of 1 or more, not {n_components!r}")
        kind = _class(reduction_alg) if isinstance(reduction_alg, str) else reduction_alg
        self.n_components = n_components
        self._reducer = kind(n_components=n_components, **options)
        self._is_fit = False

    def fit(self, acts: Array) -> Any:
        """Find the components of activations [..., C]; gives the decomposition itself."""
        self._is_fit = True
        return self._reducer.fit(acts.reshape(-1, acts.shape[-1]))

    def fit_transform(self, acts: Array) -> Array:
        self._is_fit = True
        return _flat(self._reducer.fit_transform, acts)

    def transform(self, acts: Array) -> Array:
        return _flat(self._reducer.transform, acts)

    def __call__(self, acts: Array) -> Array:
        return self.transform(acts) if self._is_fit else self.fit_transform(acts)

    def __getattr__(self, name: str) -> Any:
        found = vars(self).get("_reducer")
        if found is None or name.startswith("_") or f"{name}_" not in vars(found):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}: is it fitted?")
        return vars(found)[f"{name}_"]

    def __dir__(self) -> list[str]:
        found = [name[:-1] for name in dir(self._reducer) if name.endswith("_") and not name.startswith("_")]
        return [*super().__dir__(), *found]


def _class(name: str) -> type[Any]:
    try:
        from sklearn import decomposition  # pyright: ignore[reportMissingImports] (lucent asks for it, fvfast does not)
        from sklearn.base import BaseEstimator  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise FvfastError("ChannelReducer needs scikit-learn: pip install scikit-learn") from error
    there = {
        key: value
        for key, value in vars(decomposition).items()
        if isinstance(value, type) and issubclass(value, BaseEstimator)
    }
    if name not in there:
        raise BadReduction(
            f"unknown reduction {name!r}{did_you_mean(name, there)}; there are {', '.join(sorted(there))}"
        )
    return there[name]


def _flat(function: Callable[[Array], Array], acts: Array) -> Array:
    found = function(acts.reshape(-1, acts.shape[-1]))
    return found.reshape(*acts.shape[:-1], found.shape[-1])
