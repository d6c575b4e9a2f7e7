"""One step of a batch, on buffers that stay where they are, so that a CUDA graph can repeat it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from fvfast_kernels import adam_, synthesize_adjoint_adam_, synthesize_into
from torch import Tensor

from fvfast.errors import FvfastError
from fvfast.expressions import Context, Objective
from fvfast.images import Fourier, Image
from fvfast.objectives import together
from fvfast.prepare import Fast


@dataclass
class Batch:
    """Images that are optimised together.

    image: the parameterised images, B of them; objectives: (objective, number of images), in order.
    table: [steps, B, 6], the views of every step; lr: [B].
    rows: which images of the whole render these are. clip: largest gradient norm of an image, or None.
    history: [steps, B], the objective of each view; filled as the loop goes. done: steps taken. every: how often
    to keep a snapshot. watch: shown the batch as it goes, by the thread that works on it. error: why the batch could
    not go on, where the others can.
    seconds: what the stages took: "warm-up" and "capture" (of a CUDA graph), and "loop".
    """

    image: Image
    objectives: Sequence[tuple[Objective, int]]
    table: Tensor
    lr: Tensor
    rows: list[int]
    clip: float | None = None
    every: int | None = None
    watch: Callable[[Batch], None] | None = None
    history: Tensor = field(init=False)
    done: int = 0
    error: FvfastError | None = None
    snapshots: list[tuple[int, Tensor]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.history = torch.full(self.table.shape[:2], float("nan"))

    @property
    def steps(self) -> int:
        return len(self.table)


class Step:
    """View lookup, view, network, objective, gradient, Adam: calling it takes the next step of a batch.

    Everything that changes from step to step lives on the device: the counter that picks the views and corrects
    Adam's bias, the optimiser's state, and the history. The host only says "again".
    """

    def __init__(self, batch: Batch, tap: Fast) -> None:
        parameter = batch.image.parameter
        device = parameter.device
        self.batch, self.tap, self.image, self.parameter = batch, tap, batch.image, parameter
        self.objective = together([(objective.on(device), count) for objective, count in batch.objectives])
        self.names = sorted({name for objective, _ in batch.objectives for name in objective.layers})
        self.table = batch.table.to(device)  # [steps, B, 6]
        self.lr = batch.lr.to(device)  # [B]
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self.count = torch.zeros(1, dtype=torch.int32, device=device)  # steps taken
        self.history = torch.full(batch.table.shape[:2], float("nan"), device=device)  # [steps, B]
        self._start = parameter.detach().clone()
        self._advance = self._fused() or self._by_autograd

    def __call__(self) -> None:
        value = self._advance()  # [B]
        self.history.index_copy_(0, self.count.long(), value.detach()[None])
        self.count += 1

    def _fused(self) -> Callable[[], Tensor] | None:
        """A step around the network in four launches, where the image's views are evaluated in its Fourier basis."""
        image = self.image
        looks_at_canvas = any(not leaf.layers for objective, _ in self.batch.objectives for leaf in objective.leaves())
        # A subclass of Fourier makes its spectrum out of another parameter, to which autograd knows the way.
        if type(image) is not Fourier or not image.views.in_basis or looks_at_canvas or self.batch.clip:
            return None
        buffers = image.buffers()
        views = self.table[..., :5].contiguous()  # [steps, B, 5]
        spectrum, envelope = self.parameter.detach(), image.envelope

        def advance() -> Tensor:
            synthesize_into(buffers, spectrum, envelope, views, self.count)
            view = buffers.view.detach().requires_grad_()  # [B, 3 or 4, R, R]
            value = self._value(view)
            (gradient,) = torch.autograd.grad(-value.sum(), view)  # Adam minimises
            synthesize_adjoint_adam_(
                buffers, gradient, spectrum, self.exp_avg, self.exp_avg_sq, self.lr, envelope, views, self.count
            )
            return value

        return advance

    def _by_autograd(self) -> Tensor:
        """A step of any image, and of objectives that look at the image itself."""
        views = self.table.index_select(0, self.count)[0]  # [B, 6]
        value = self._value(self.image.view(views))
        prior = self.image.prior()
        loss = -value if prior is None else prior - value  # [B]; Adam minimises
        (gradient,) = torch.autograd.grad(loss.sum(), self.parameter)
        with torch.no_grad():
            number = self.count[0] + 1
            adam_(self.parameter, self._clipped(gradient), self.exp_avg, self.exp_avg_sq, number, self.lr)
            self.image.settle()
        return value

    def _value(self, view: Tensor) -> Tensor:
        activations = self.tap(view, self.names) if self.names else {}
        value = self.objective(Context(activations, self.image.canvas, self.tap.layers))  # [B]
        if not value.requires_grad:
            labels = ", ".join(objective.label for objective, _ in self.batch.objectives)
            raise FvfastError(f"the objective {labels} does not depend on the image: there is nothing to optimise")
        return value

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
            self.history.fill_(float("nan"))

    def publish(self, done: int) -> None:
        """Bring the history of the steps up to `done` to the batch. Waits for the device.

        Raises FvfastError where an objective was not a number.
        """
        batch = self.batch
        fresh = self.history[batch.done : done].cpu()
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
