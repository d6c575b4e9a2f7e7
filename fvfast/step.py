"""One step of a batch, on buffers that stay where they are, so that a CUDA graph can repeat it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from fvfast_kernels import adam_, synthesize_adjoint_adam_, synthesize_into
from torch import Tensor

from fvfast.errors import FvfastError
from fvfast.expressions import Context, Objective, Picture, Reference
from fvfast.images import Fourier, Image, look
from fvfast.photographs import square, with_channels
from fvfast.plateau import reached
from fvfast.prepare import Fast, Private
from fvfast.redirect import Redirection
from fvfast.refill import pairs
from fvfast.together import Together


@dataclass
class Batch:
    """Images that are optimised together.

    image: the parameterised images, B of them; objectives: (objective, number of images), in order.
    table: [steps, B, 6], the views of every step; lr: [B].
    rows: which images of the whole render these are. clip: largest gradient norm of an image, or None.
    history: [steps, B], the objective of each view; filled as the loop goes. done: steps taken. every: how often
    to keep a snapshot; marks: after which steps besides. frames_at: after which steps to keep a frame of a film,
    [B, C, H, W] in 8 bits, or with an opacity one more. redirect, patience, tolerance: as in `Recipe`. ended: [B], how
    many steps each image takes; fewer than `steps` once it has reached a plateau. watch: shown the batch as it goes, by
    the thread that works on it. error: why the batch could not go on, where the others can.
    settings: what a batch has in common with others that a captured step may serve too; None for nothing.
    seed: of the random numbers that the network draws, if it does.
    seconds: what the stages took: "warm-up" and "capture" (of a CUDA graph), and "loop".
    """

    image: Image
    objectives: Sequence[tuple[Objective, int]]
    table: Tensor
    lr: Tensor
    rows: list[int]
    clip: float | None = None
    every: int | None = None
    marks: frozenset[int] = frozenset()
    frames_at: frozenset[int] = frozenset()
    redirect: int = 0
    patience: int | None = None
    tolerance: float = 0.02
    watch: Callable[[Batch], None] | None = None
    settings: Any = None
    seed: int = 0
    history: Tensor = field(init=False)
    done: int = 0
    error: FvfastError | None = None
    snapshots: list[tuple[int, Tensor]] = field(default_factory=list)
    frames: list[tuple[int, Tensor]] = field(default_factory=list)
    ended: Tensor = field(init=False)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.history = torch.full(self.table.shape[:2], float("nan"))
        self.ended = torch.full((len(self.rows),), self.steps)

    @property
    def steps(self) -> int:
        return len(self.table)

    @property
    def finished(self) -> bool:
        """Whether no image has a step left to take."""
        return self.done >= int(self.ended.max())

    def until(self, limit: int) -> int:
        """The next number of steps, `limit` at most, at which something is to be kept."""
        if self.every:
            limit = min(limit, self.done + self.every - self.done % self.every)
        return min((mark for mark in self.marks | self.frames_at if self.done < mark < limit), default=limit)

    @torch.no_grad()
    def keep(self) -> None:
        """Keep what was asked for after as many steps as are done."""
        if self.done in self.marks or (self.every and self.done and self.done % self.every == 0):
            self.snapshots.append((self.done, self.image.picture().cpu()))
        if self.done in self.frames_at:
            frame = (self.image.picture().clamp(0, 1) * 255).round().byte()
            self.frames.append((self.done, frame.cpu()))


class Step:
    """View lookup, view, network, objective, gradient, Adam: calling it takes the next step of a batch.

    Everything that changes from step to step lives on the device: the counter that picks the views and corrects
    Adam's bias, the optimiser's state, and the history. The host only says "again".
    """

    def __init__(self, batch: Batch, tap: Fast | Private) -> None:
        parameter = batch.image.parameter
        device = parameter.device
        self.batch, self.tap, self.image, self.parameter = batch, tap, batch.image, parameter
        self.fast = tap.fast if isinstance(tap, Private) else tap  # what every batch's network is made from
        self.objective = Together(_on(device, batch.objectives))
        self.names = sorted({name for objective, _ in batch.objectives for name in objective.layers})
        self.table = batch.table.to(device, copy=True)  # [steps, B, 6]
        self._views = self.table[..., :5].contiguous()  # [steps, B, 5]
        self.lr = batch.lr.to(device).clone()  # [B]; 0 for images that have reached a plateau
        self.ended = batch.ended.to(device).clone()  # [B]
        self.redirection: Redirection | None = None  # what redirects gradients, where it does now
        self._woken: Redirection | None = None
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self.count = torch.zeros(1, dtype=torch.int32, device=device)  # steps taken
        self.history = torch.full(batch.table.shape[:2], float("nan"), device=device)  # [steps, B]
        self._start, self._lr = parameter.detach().clone(), self.lr.clone()
        self._compared = _Compared(batch, tap)
        # Nothing here refers back to the step: a cycle would keep its memory until Python looks for cycles.
        self._advance = self._fused() or Step._by_autograd

    def __call__(self) -> None:
        value = self._advance(self)  # [B]
        self.history.index_copy_(0, self.count.long(), value.detach()[None])
        self.count += 1
        if self.batch.patience:
            flat = reached(self.history, self.count, self.batch.patience, self.batch.tolerance)
            self.ended.copy_(torch.where(flat & (self.lr > 0), self.count, self.ended))
            self.lr.masked_fill_(flat, 0)

    def wake(self) -> bool:
        """After the first step: redirect from now on the gradients of images that had none. Returns whether any had.

        The caller starts again: an image that is dead has not moved, the others take the same step again.
        """
        if not self.batch.redirect:
            return False
        dead = self.exp_avg_sq.flatten(1).amax(1) == 0  # [B]
        if not bool(dead.any()):
            return False
        if self._woken is None:
            self._woken = Redirection(dead, self.count, self.batch.redirect)
        self._woken.images.copy_(dead)  # in place: a captured step looks there
        self.redirect(True)
        return True

    def redirect(self, redirected: bool) -> None:
        """Whether the next steps redirect the gradients of the images that `wake` found dead."""
        self.redirection = self._woken if redirected else None

    def take_over(self, batch: Batch) -> bool:
        """Go on with another batch on the buffers of this one; False, with nothing changed, where it is not alike.

        What was captured of this step then takes the other's. The batch's image becomes the step's own.
        """
        mine = self.batch
        if batch.settings is None or batch.settings != mine.settings or batch.table.shape != mine.table.shape:
            return False
        found = pairs(self.image, batch.image)
        if found is None or not self.objective.take_over(_on(self.parameter.device, batch.objectives)):
            return False
        with torch.no_grad():
            for own, fresh in found:
                own.copy_(fresh)
            self.table.copy_(batch.table)
            if self.parameter.is_cuda:
                self._views.copy_(self.table[..., :5])
            else:  # where bases are made for several steps ahead, and kept as long as the table is the same one
                self._views = self.table[..., :5].contiguous()
            self._lr.copy_(batch.lr)
            self._start.copy_(self.parameter)
        self.batch, batch.image = batch, self.image
        self.redirect(False)
        self.reset()
        return True

    def _fused(self) -> Callable[[Step], Tensor] | None:
        """A step around the network in five launches, where the image's views are evaluated in its Fourier basis."""
        image = self.image
        looks_at_canvas = any(not leaf.layers for objective, _ in self.batch.objectives for leaf in objective.leaves())
        if image.frame.inputs != 3:  # what the kernels take
            return None
        # A subclass of Fourier makes its spectrum out of another parameter, to which autograd knows the way.
        if type(image) is not Fourier or not image.views.in_basis or looks_at_canvas or self.batch.clip:
            return None
        buffers = image.buffers()
        spectrum, envelope = self.parameter.detach(), image.envelope

        def advance(step: Step) -> Tensor:
            synthesize_into(buffers, spectrum, envelope, step._views, step.count)
            view = buffers.view.detach().requires_grad_()  # [B, 3, R, R], or 4 in a wide frame
            value = step._value(view, lambda: step.table.index_select(0, step.count)[0])
            gradient = step.gradient(-value.sum(), view)  # Adam minimises
            synthesize_adjoint_adam_(
                buffers, gradient, spectrum, step.exp_avg, step.exp_avg_sq, step.lr, envelope, step._views, step.count
            )
            return value

        return advance

    def _by_autograd(self) -> Tensor:
        """A step of any image, and of objectives that look at the image itself."""
        views = self.table.index_select(0, self.count)[0]  # [B, 6]
        value = self._value(self.image.view(views), lambda: views)
        prior = self.image.prior(value)
        loss = -value if prior is None else prior - value  # [B]; Adam minimises
        gradient = self.gradient(loss.sum(), self.parameter)
        with torch.no_grad():
            number = self.count[0] + 1
            adam_(self.parameter, self._clipped(gradient), self.exp_avg, self.exp_avg_sq, number, self.lr)
            self.image.settle()
        return value

    def _value(self, view: Tensor, views: Callable[[], Tensor]) -> Tensor:
        redirection = self.redirection
        if redirection and not view.is_cuda and int(self.count) >= redirection.steps:
            redirection = None  # it is over: without a mode, the network runs as fused operations
        with redirection or contextlib.nullcontext():
            activations = self.tap(view, self.names) if self.names else {}
        reference = self._compared.at(views)
        value = self.objective(Context(activations, self.image.shown, self.tap.layers, reference))  # [B]
        if not value.requires_grad:
            raise FvfastError(self.nothing())
        return value

    def gradient(self, loss: Tensor, of: Tensor) -> Tensor:
        """A loss's gradient. Raises FvfastError where there is none."""
        try:
            (gradient,) = torch.autograd.grad(loss, of, allow_unused=True)
        except RuntimeError as error:
            if "heckpoint" not in str(error):
                raise
            raise FvfastError(
                "the network checkpoints its activations in the old way: give torch.utils.checkpoint "
                "use_reentrant=False"
            ) from error
        if gradient is None:
            raise FvfastError(self.nothing())
        return gradient

    def nothing(self) -> str:
        """A sentence for objectives that do not depend on the image, or do where no gradient passes."""
        labels = ", ".join(objective.label for objective, _ in self.batch.objectives)
        return f"the objective {labels} does not depend on the image: there is nothing to optimise"

    def _clipped(self, gradient: Tensor) -> Tensor:
        if self.batch.clip is None:
            return gradient
        norm = gradient.flatten(1).norm(dim=1)  # [B]
        scale = (self.batch.clip / (norm + 1e-6)).clamp(max=1)  # as torch.nn.utils.clip_grad_norm_
        return gradient * scale.view(-1, *[1] * (gradient.dim() - 1))

    def reset(self) -> None:
        """Back to before the first step, in place: what a warm-up did is undone."""
        with torch.no_grad():
            self.parameter.copy_(self._start)
            self.image.reset()
            self.exp_avg.zero_()
            self.exp_avg_sq.zero_()
            self.count.zero_()
            self.lr.copy_(self._lr)
            self.ended.fill_(self.batch.steps)
            self.history.fill_(float("nan"))

    def publish(self, done: int) -> None:
        """Bring the history of the steps up to `done` to the batch. Waits for the device.

        Raises FvfastError where an objective was not a number.
        """
        batch = self.batch
        fresh = self.history[batch.done : done].cpu()
        batch.ended = self.ended.cpu()
        batch.history[batch.done : done] = fresh
        finite = fresh.isfinite()
        if not finite.all():
            step, row = divmod(int(finite.flatten().int().argmin()), fresh.shape[1])
            labels = [objective.label for objective, count in batch.objectives for _ in range(count)]
            raise FvfastError(
                f"the objective {labels[row]} became {fresh[step, row].item()} at step {batch.done + step + 1}: try "
                "a smaller --lr, or --dtype float32"
            )
        batch.done = done


def _on(device: torch.device, objectives: Sequence[tuple[Objective, int]]) -> list[tuple[Objective, int]]:
    return [(objective.on(device), count) for objective, count in objectives]


class _Compared:
    """The pictures that a batch's objectives compare with, seen in every step as the images are seen."""

    def __init__(self, batch: Batch, tap: Fast | Private) -> None:
        self.tap, self.frame, self.settings = tap, batch.image.frame, batch.image.views
        self.pictures: dict[int, Tensor] = {}
        for objective, _ in batch.objectives:
            for picture in objective.pictures():
                fitting = with_channels(picture.pixels, self.frame.inputs)
                pixels = square(fitting, self.frame.size).to(self.frame.device)
                self.pictures.setdefault(id(picture), pixels)

    def at(self, views: Callable[[], Tensor]) -> Reference | None:
        """What the pictures come to under a step's views [B, 6]; None where there are none."""
        if not self.pictures:
            return None
        seen: dict[tuple[int, str, int, int], Tensor] = {}

        def reference(picture: Picture, layer: str, start: int, stop: int) -> Tensor:
            key = id(picture), layer, start, stop
            if key not in seen:
                with torch.no_grad():
                    rows = views()[start:stop]
                    pixels = self.pictures[id(picture)].expand(len(rows), -1, -1, -1)
                    view = look(pixels, rows, self.settings, self.frame)
                    seen[key] = self.tap(view, [layer])[layer]
            return seen[key]

        return reference
