"""What determines a render, in one digest: the name under which a store finds it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fvfast.models import Model

# Raised by every change of the engine after which the same specification gives another image. Other last bits are one:
# a hundred steps make them visible, and an atlas that goes on must end with the same bytes.
RENDERING = 3


def weights_digest(model: Model) -> str:
    """The SHA-256 of a model's state. 64 hexadecimal digits."""
    return state_digest(model.module)


def state_digest(module: nn.Module) -> str:
    """The SHA-256 of names, types, shapes and bytes of all tensors of a module's state. 64 hexadecimal digits."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(name.encode() + b" ")
            _add(digest, value)
    return digest.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """The SHA-256 of a tensor's type, shape and bytes. 64 hexadecimal digits."""
    digest = hashlib.sha256()
    _add(digest, tensor)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, tensor: Tensor) -> None:
    import torch

    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(plain.view(torch.uint8).numpy().tobytes())


def render_key(spec: dict[str, Any], model: Model, weights: str, **more: Any) -> str:
    """The SHA-256 of what determines a render, as canonical JSON. 64 hexadecimal digits.

    spec: of one image, as in `Render.specs`; weights: the model's `weights_digest`; more: what else determines
    it, such as the digests of what the recipe only names (`Job.handed`). How long a render takes, what is rendered
    beside it and where its weights lie do not enter.
    """
    determining = {key: spec[key] for key in ("target", "recipe", "size", "seed", "dtype")}
    for name in ("magnitude", "start"):  # files, which others may replace under the same names
        file = spec["recipe"].get(name)
        if file is not None and name not in more:
            content = hashlib.sha256(Path(file).read_bytes()).hexdigest()
            determining["recipe"] = {**determining["recipe"], name: content}
    determining |= {
        "rendering": RENDERING,
        "model": model.name,
        "weights": weights,
        "input": [model.mean, model.std, model.size],
        **feeding(model),
        **more,
    }
    return hashlib.sha256(canonical(determining).encode()).hexdigest()


def feeding(model: Model) -> dict[str, Any]:
    """What a model's inputs besides the image and its layers' layouts add to a key: nothing where there are none."""
    found: dict[str, Any] = {}
    if model.inputs:
        digest = hashlib.sha256()
        _add_value(digest, model.inputs)
        found["inputs"] = digest.hexdigest()
    if model.layouts:
        found["layouts"] = dict(model.layouts)
    return found


def _add_value(digest: hashlib._Hash, value: Any) -> None:
    """Tensors by their content, containers by what is in them, anything else as it is written."""
    import torch

    if isinstance(value, torch.Tensor):
        digest.update(b"tensor ")
        _add(digest, value)
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}\n".encode())
        for key in sorted(value, key=repr):
            digest.update(f"{key!r} ".encode())
            _add_value(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"sequence {len(value)}\n".encode())
        for one in value:
            _add_value(digest, one)
    else:
        digest.update(f"{value!r}\n".encode())


def canonical(value: Any) -> str:
    """JSON in the one spelling that equal values share."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
