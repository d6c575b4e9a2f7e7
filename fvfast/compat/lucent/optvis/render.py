"""`lucent.optvis.render`: `render_vis`, on fvfast's engine wherever what it is given allows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor, nn
from torch.optim import Optimizer

from fvfast import files
from fvfast.compat.lucent import fusing, paths
from fvfast.compat.lucent.fusing import Chain
from fvfast.compat.lucent.hooks import ModuleHook as ModuleHook
from fvfast.compat.lucent.hooks import hook_model as hook_model
from fvfast.compat.lucent.misc import io
from fvfast.compat.lucent.misc.io import show as show
from fvfast.compat.lucent.network import Loss, Network, Restless
from fvfast.compat.lucent.optvis import objectives, param, transform
from fvfast.compat.lucent.optvis.param.color import Rgb
from fvfast.compat.lucent.paths import Engine, General, Loop, SlowPath
from fvfast.errors import FvfastError
from fvfast.neutral import neutral

ImageFunction = Callable[[], Tensor]
Array = np.ndarray[Any, Any]
LUCENT_LR = 5e-2
NATIVE = 224  # pixels: smaller images are shown to the network at this size


@neutral()
def render_vis(
    model: nn.Module,
    objective_f: str | Loss,
    param_f: Callable[[], tuple[Iterable[Tensor], ImageFunction]] | None = None,
    optimizer: Callable[[list[Tensor]], Optimizer] | None = None,
    transforms: Sequence[Callable[[Tensor], Tensor]] | None = None,
    thresholds: Sequence[int] = (512,),
    verbose: bool = False,
    preprocess: bool = True,
    progress: bool = True,
    show_image: bool = True,
    save_image: bool = False,
    image_name: str | None = None,
    show_inline: bool = False,
    fixed_image_size: int | None = None,
) -> list[Array]:
    """Images that make a loss of a network small: one array [B, H, W, C] in 0..1 for each of `thresholds`, in steps.

    model: a copy in eval mode is used, on the model's device; the model itself stays exactly as it is.
    objective_f: "layer:channel" with lucent's underscored layers, an objective, or any function of T.
    param_f, optimizer, transforms: as in lucent; by default `param.image(128)`, Adam with 0.05, `standard_transforms`.
    preprocess: normalise for torchvision's models. fixed_image_size: what the network sees, in pixels.
    verbose: print losses. progress: a bar on stderr. show_image: open the result in a viewer; show_inline: show it in
    the notebook. save_image: write it to `image_name` ("image.jpg").

    Ctrl-C ends the render with the image as it is. Warns (`SlowPath`) where the engine cannot be used, and says why.
    Raises FvfastError for layers, channels and sizes that there are not, and for a loss that is not a number.
    """
    steps = sorted(set(_checked(thresholds)))
    parameters, image_f = (param_f or (lambda: param.image(128)))()
    params = list(parameters)
    choose = optimizer or (lambda found: torch.optim.Adam(found, lr=LUCENT_LR))
    adam = choose(params)
    chosen = [*(transform.standard_transforms if transforms is None else transforms)]
    with torch.no_grad():
        canvas = image_f()
    if preprocess:
        inception = type(model).__name__ == "InceptionV1"
        chosen.append(transform.preprocess_inceptionv1() if inception else transform.normalize())
    if fixed_image_size or min(canvas.shape[2:]) < NATIVE:
        chosen.append(transform.Resize(fixed_image_size or NATIVE))
    loss = objectives.as_objective(objective_f)
    run = Run(model, loss, image_f, params, adam, chosen, canvas)
    if verbose:
        print(f"Initial loss: {run.initial:.3f}")
    images = run.images(steps, progress, verbose, show_inline)
    if save_image:
        export(image_f(), image_name)
    if show_inline:
        io.show(images[-1])
    elif show_image:
        view(image_f())
    return images


def _checked(thresholds: Sequence[int]) -> Sequence[int]:
    if isinstance(thresholds, int) or not thresholds or any(int(step) != step or step < 1 for step in thresholds):
        raise FvfastError(f"thresholds are steps after which to keep an image, such as (512,), not {thresholds!r}")
    return thresholds


class Run:
    """One call of `render_vis`: what is optimised, and by which of two loops."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        image_f: ImageFunction,
        params: list[Tensor],
        optimizer: Optimizer,
        transforms: list[Callable[[Tensor], Tensor]],
        canvas: Tensor,
    ) -> None:
        self.loss, self.image_f, self.optimizer = loss, image_f, optimizer
        self.transform_f = transform.compose(transforms)
        height, width = canvas.shape[2:]
        self.chain = fusing.chain(transforms, width) if height == width else "the image is not square"
        # What is drawn for a first look is drawn again when it counts.
        before = np.random.get_state()
        with torch.no_grad(), torch.random.fork_rng():
            first = self.transform_f(canvas)
        np.random.set_state(before)
        side = max(first.shape[2:]) if isinstance(self.chain, str) else self.chain.side
        self.network = Network(model, side, first.shape[1])
        self.initial = self.network.probe(loss, first, canvas)
        self.slow = paths.why_slow(params, image_f, optimizer, self.chain)

    def images(self, steps: Sequence[int], progress: bool, verbose: bool, inline: bool) -> list[Array]:
        """The image after each of `steps`, in order; where Ctrl-C came in between, as it was then at the end."""
        if self.slow is None:
            try:
                return self._follow(self.engine(steps[-1]), steps, progress, verbose, inline)
            except Restless:
                self.slow = "the objective reads other layers at some steps than at others"
        # Past this method, `render_vis` and the frame of its decorator.
        warnings.warn(f"rendering step by step: {self.slow}", SlowPath, stacklevel=4)
        loop = General(self.network, self.loss, self.image_f, self.transform_f, self.optimizer)
        return self._follow(loop, steps, progress, verbose, inline)

    def engine(self, steps: int) -> Engine:
        """The fast loop."""
        assert isinstance(self.image_f, Rgb)
        assert isinstance(self.chain, Chain)
        lr = float(self.optimizer.param_groups[0]["lr"])
        return Engine(self.network, self.loss, self.image_f, self.chain, lr, steps)

    def _follow(self, loop: Loop, steps: Sequence[int], progress: bool, verbose: bool, inline: bool) -> list[Array]:
        images: list[Array] = []
        done = 0
        try:
            with _bar(progress) as bar:
                task = bar.add_task("", total=steps[-1])
                for until in steps:
                    while done < until:
                        count = min(loop.stride, until - done)
                        loop.advance(count)
                        done += count
                        bar.update(task, completed=done)
                    loss = loop.publish()
                    images.append(tensor_to_img_array(self.image_f()))
                    if verbose:
                        print(f"Loss at step {until}: {loss:.3f}")
                    if verbose and inline:
                        io.show(images[-1])
        except KeyboardInterrupt:
            loss = loop.publish()
            print(f"Interrupted optimization at step {done}." + (f" Loss: {loss:.3f}" if verbose else ""))
            images.append(tensor_to_img_array(self.image_f()))
        finally:
            loop.close()
        return images


class Rate(ProgressColumn):
    """Steps a second, over all so far."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.completed / task.elapsed:.1f}/s" if task.elapsed else "")


def _bar(progress: bool) -> Progress:
    console = Console(stderr=True)
    shown = progress and (console.is_terminal or console.is_jupyter)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps"), Rate(), TimeRemainingColumn(compact=True))
    return Progress(*columns, console=console, transient=True, disable=not shown)


# Results ---------------------------------------------------------------------------------------------------


def tensor_to_img_array(tensor: Tensor) -> Array:
    """Images [B, C, H, W] as an array [B, H, W, C]."""
    return tensor.detach().float().cpu().permute(0, 2, 3, 1).numpy().copy()


def view(tensor: Tensor) -> None:
    """Open images [B, C, H, W], side by side, in the system's viewer."""
    _side_by_side(tensor).show()


def export(tensor: Tensor, image_name: str | None = None) -> None:
    """Write images [B, C, H, W], side by side, to a file ("image.jpg"). Raises FvfastError where that cannot be."""
    path = Path(image_name or "image.jpg")
    PIL.Image.init()
    kind = PIL.Image.EXTENSION.get(path.suffix.lower())
    if kind is None:
        raise FvfastError(f"cannot tell a picture's format from the name {path}: end it in .png or .jpg")
    with files.whole(path) as file:
        _side_by_side(tensor).save(file, format=kind)


def _side_by_side(tensor: Tensor) -> PIL.Image.Image:
    return io.to_picture(np.concatenate(list(tensor_to_img_array(tensor)), axis=1))
