"""One render from plan to result: images put into batches, run, made fewer where memory asks for it, and judged."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import fvfast_kernels
import torch
import torch.nn.functional as F
from torch import Tensor

from fvfast import prepare, targets
from fvfast.blending import Shared, Transparent
from fvfast.errors import FvfastError, is_out_of_memory
from fvfast.expressions import Objective
from fvfast.forms import AUTO
from fvfast.identity import weights_digest
from fvfast.images import Frame
from fvfast.job import Job
from fvfast.layers import Tap
from fvfast.memory import largest_batch
from fvfast.optimize import OutOfMemory, crew_size, give_back_blocks, layers_of, run
from fvfast.plans import ImagePlan, Keep, shared_settings
from fvfast.previews import Preview, Watch
from fvfast.result import Progress, Render, notes
from fvfast.step import Batch
from fvfast.subjects import Subject, subject


def probes(device: torch.device) -> bool:
    """Whether batches are as large as memory allows; on a CPU single images side by side are faster."""
    return device.type == "cuda"


class Session:
    """One call of `render`: batches made, run, made smaller where memory asks for it, and gathered."""

    def __init__(
        self,
        job: Job,
        plan: Sequence[ImagePlan],
        batch: int | None,
        threads: int | None,
        keep: Keep | None,
        progress: Callable[[Progress], None] | None,
        stop: Callable[[], bool] | None,
        notify: Callable[[str], None],
    ) -> None:
        self.job, self.plan, self.keep = job, list(plan), keep or Keep()
        self.progress, self.stop, self.notify = progress, stop, notify
        self.on_cpu, self.on_gpu = job.device.type == "cpu", job.device.type == "cuda"
        self.workers, self.threads = crew_size(threads) if self.on_cpu else (1, torch.get_num_threads())
        self.size = batch or 1
        self.probe = batch is None and probes(job.device) and len(self.plan) > 1
        self.stages: dict[str, float] = {}
        self.depth = {name: index for index, name in enumerate(job.layers)}
        self.channels = job.model.channels  # of the view: one more where the stem is widened
        self.interrupted = False
        self.preview: Callable[[Preview], None] | None = None
        self.network = AUTO  # or the form that was asked for
        # On a GPU: whether others like this one follow, so that what was captured stays; how many times as many images.
        self.lasting, self.ahead = False, 1.0

    def render(self) -> Render:
        job, started = self.job, time.perf_counter()
        wanted = layers_of([image.objective for image in self.plan])
        # Whether the stem can be widened hangs on everything that is wanted. So on a CPU, where an image must not
        # depend on its company, it never is; nor would it gain anything there.
        wide = job.device.type == "cuda" and job.dtype != torch.float32
        inputs = job.model.channels
        make = functools.partial(prepare.prepare, job.module, job.layers, wanted, job.view, job.dtype, wide, inputs)
        fast = job.recordings.fast((tuple(wanted), wide, self.network), make) if self.on_gpu else make()
        self.channels = fast.channels
        if job.layers.habits.single or job.layers.mixed.intersection(wanted):
            self._one_at_a_time()
        with contextlib.ExitStack() as stack:
            if not self.on_gpu:
                stack.enter_context(fast)
            elif not self.lasting:
                stack.callback(job.recordings.close)
            judge = stack.enter_context(job.tap(wanted))
            if self.probe:
                self.size = self._largest(fast)
            prepared = time.perf_counter()
            begun = self._run(fast, judge)
            if not self.lasting:
                job.recordings.release()
            seconds = time.perf_counter() - prepared
            give_back_blocks()
            result = self._judged(begun, judge, seconds)
            result.form, result.form_why = fast.form
            if self.on_gpu:
                result.specs = [{**spec, "form": result.form} for spec in result.specs]
        give_back_blocks()
        waits = {key: sum(b.seconds.get(key, 0.0) for b in begun) for key in ("warm-up", "capture")}
        lowered = self.stages.pop("lower", 0.0)
        self.stages |= {"prepare": prepared - started + lowered, **waits}
        self.stages["loop"] = seconds - lowered - sum(waits.values())
        self.stages["judge"] = time.perf_counter() - prepared - seconds
        result.stages = self.stages
        return result

    def _one_at_a_time(self) -> None:
        """Have every image in a tensor of its own, since the network mixes those that it gets together."""
        if self.size > 1 or self.probe:
            self.notify(f"{self.job.model.name} mixes the images of a batch: it gets one at a time")
        self.size, self.probe = 1, False

    def _judged(self, begun: Sequence[Batch], judge: Tap, seconds: float) -> Render:
        try:
            return self._gather(begun, judge, seconds)
        except Exception as error:
            # The judge sees one image at a time; what was kept for the next render may leave no room even for that.
            if not is_out_of_memory(error) or not self.job.recordings.release():
                raise
        torch.cuda.empty_cache()
        return self._gather(begun, judge, seconds)

    def _largest(self, tap: prepare.Fast) -> int:
        """How many images one batch may hold on a GPU. The deepest, twice: what fits for it fits for all."""
        deepest = min(self.plan, key=self._cost)
        fits, like = self.job.recordings.fits, (*sorted(deepest.objective.layers), shared_settings(deepest.recipe))
        if like not in fits:
            self.job.recordings.release()
            fits[like] = largest_batch(lambda count: self._batch([deepest] * count), tap, self.job.device)
        return min(len(self.plan), fits[like])

    def _run(self, tap: prepare.Fast, judge: Tap) -> list[Batch]:
        """Run every image, with fewer at a time whenever memory runs out."""
        while True:
            batches = list(self.batches())
            poll = functools.partial(self._poll, batches)
            notify = self._once()
            try:
                self._ready(batches, tap, judge)
                kept = self.job.recordings if self.on_gpu else None
                crew = {"workers": self.workers, "threads": self.threads}
                begun = run(batches, tap, poll=poll, notify=notify, recordings=kept, **crew)
                self._report(batches)
                return begun
            except OutOfMemory as error:
                self._shrink(error, len(batches))
            # What did not fit is in a cycle with the error's trace; the next batches need its memory.
            del batches, poll
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _ready(self, batches: Sequence[Batch], tap: prepare.Fast, judge: Tap) -> None:
        """Have the network ready in every form that the batches will ask for (`fvfast.lowering`, `fvfast.choosing`)."""
        started = time.perf_counter()
        for batch in batches:
            names = {name for objective, _ in batch.objectives for name in objective.layers}
            shape = (len(batch.rows), self.channels, self.job.view, self.job.view)
            if names:
                tap.ready(shape, self.job.dtype, names)
        if self.on_gpu:
            from fvfast.choosing import Chooser

            model = self.job.model
            chooser = Chooser(self.network, judge, lambda: f"{model.name} {weights_digest(model)[:12]}", self.notify)
            chooser.choose_for(batches, tap, self.ahead, before=self.job.recordings.release)
        give_back_blocks()
        self.stages["lower"] = self.stages.get("lower", 0.0) + time.perf_counter() - started

    def _once(self) -> Callable[[str], None]:
        """`notify` for the workers: a sentence that several batches have to say is said once."""
        said: set[str] = set()

        def notify(sentence: str) -> None:
            if sentence not in said:
                said.add(sentence)
                self.notify(sentence)

        return notify

    def _shrink(self, error: OutOfMemory, batches: int) -> None:
        """Have at most half as many images in the works at a time as when memory ran out."""
        self.job.recordings.release()
        width = len(error.batch.rows)
        if width > 1 and self.size > 1:
            half = max(1, min(self.workers, batches) * width // 2)
            self.size = min(self.size, width) // 2
            self.workers = max(1, min(self.workers, half // self.size))
        elif self.workers > 1:
            self.workers //= 2
        else:
            raise FvfastError(f"memory ran out with one image of {self.job.size} px: use a smaller --size") from error
        fits = self.job.recordings.fits
        fits |= {like: min(images, self.size) for like, images in fits.items()}
        count = self.size * self.workers
        self.notify(f"memory ran out: going on with {count} image{'s' if count > 1 else ''} at a time")

    def batches(self) -> Iterator[Batch]:
        """Images that can share a tensor, at most `self.size` at a time; the longest first, so that none waits."""
        units: list[list[ImagePlan]] = []
        for image in self.plan:
            # What depends on one another, or shares a component, has to be in one tensor.
            if units and (
                (image.objective.coupled and units[-1][0].objective is image.objective)
                or (image.recipe.shared and shared_settings(units[-1][0].recipe) == shared_settings(image.recipe))
            ):
                units[-1].append(image)
            else:
                units.append([image])
        groups: dict[Any, list[list[ImagePlan]]] = {}
        for unit in units:
            groups.setdefault(shared_settings(unit[0].recipe), []).append(unit)
        batches: list[list[ImagePlan]] = []
        for group in groups.values():
            current: list[ImagePlan] = []
            for unit in group:
                if current and len(current) + len(unit) > self.size:
                    batches.append(current)
                    current = []
                current = current + unit
            batches.append(current)
        return map(self._batch, sorted(batches, key=lambda batch: min(self._cost(image) for image in batch)))

    def _cost(self, image: ImagePlan) -> int:
        """Minus what an image costs, roughly: steps times how deep its layers lie."""
        deepest = max((self.depth[name] for name in image.objective.layers), default=0)
        return -image.recipe.steps * (deepest + 1)

    def _batch(self, images: list[ImagePlan]) -> Batch:
        job, recipe = self.job, images[0].recipe
        view = job.view
        kind = job.kind(recipe.image)
        noise: list[Tensor] = []
        tables: list[Tensor] = []
        backdrops: list[Tensor] = []
        for image in images:
            # One generator an image: its start and its views do not depend on what is rendered beside it.
            generator = torch.Generator().manual_seed(image.seed)
            noise.append(kind.noise(job.size, generator, job.model.channels))
            tables.append(image.recipe.views.draw(recipe.steps, generator, job.size, view))
            if recipe.alpha:
                # Another one, since how many numbers the views took depends on the steps.
                generator = torch.Generator().manual_seed(2**63 + image.seed)
                backdrops.append(Transparent.noise(job.size, generator))
                tables[-1] = torch.cat([tables[-1], Transparent.draw(recipe.steps, generator)], 1)
        mean, std = (torch.tensor(v, device=job.device) for v in (job.model.mean, job.model.std))
        frame = Frame(job.size, view, mean, std, job.dtype, job.device, self.channels)
        objectives: list[tuple[Objective, int]] = []
        for image in images:
            if objectives and objectives[-1][0] is image.objective:
                objectives[-1] = (image.objective, objectives[-1][1] + 1)
            else:
                objectives.append((image.objective, 1))
        recipes = [i.recipe for i in images]
        parameterised = kind(recipes, torch.stack(noise), frame)
        if backdrops:
            parameterised = Transparent(parameterised, recipes, torch.stack(backdrops), frame)
        if recipe.shared:
            parameterised = Shared(parameterised, recipe.shared)
        if recipe.start:
            parameterised.begin(torch.stack([job.picture(r.start) for r in recipes if r.start]))
        return Batch(
            image=parameterised,
            objectives=objectives,
            table=torch.stack(tables, 1),
            lr=torch.tensor([i.recipe.lr for i in images]),
            rows=[i.row for i in images],
            clip=recipe.clip,
            every=self.keep.period(recipe.steps),
            marks=self.keep.after,
            frames_at=self.keep.frames_at(recipe.steps),
            redirect=recipe.redirect,
            patience=recipe.patience,
            tolerance=recipe.tolerance,
            watch=Watch(self.preview) if self.preview else None,
            settings=shared_settings(recipe),
            seed=images[0].seed,
        )

    def _poll(self, batches: Sequence[Batch]) -> bool:
        self._report(batches)
        if self.stop and self.stop():
            self.interrupted = True
        return self.interrupted

    def _report(self, batches: Sequence[Batch]) -> None:
        if self.progress:
            done = sum(b.done * len(b.rows) for b in batches)
            total = sum((b.done if b.finished else b.steps) * len(b.rows) for b in batches)
            finished = sum(len(b.rows) for b in batches if b.finished)
            last = [float(b.history[b.done - 1].mean()) for b in batches if b.done]
            value = sum(last) / len(last) if last else float("nan")
            self.progress(Progress(done, total, finished, len(self.plan), value))

    def _gather(self, begun: Sequence[Batch], judge: Tap, seconds: float) -> Render:
        job = self.job
        good = [b for b in begun if b.error is None]
        failures = [str(b.error) for b in begun if b.error is not None]
        if not good:
            raise (begun[0].error if begun else None) or FvfastError("the render was stopped before it began")
        steps = max(b.steps for b in good)
        rows: dict[int, dict[str, Any]] = {}
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            for b in good:
                rows.update(self._rows(b, judge, steps))
        finally:
            torch.set_num_threads(threads)
        kept = [image for image in self.plan if image.row in rows]
        taken = [rows[image.row] for image in kept]
        names = [targets.label(image.objective, job.model) for image in kept]
        result = Render(
            images=torch.stack([r["image"] for r in taken]),
            targets=names,
            seeds=[image.seed for image in kept],
            objective_start=torch.stack([r["start"] for r in taken]),
            objective=torch.stack([r["end"] for r in taken]),
            history=torch.stack([r["history"] for r in taken]),
            alphas=[r["alpha"] for r in taken],
            snapshots=[r["snapshots"] for r in taken],
            frames=[r["frames"] for r in taken],
            recipes=[image.recipe for image in kept],
            specs=[self._spec(image, name, r["done"]) for image, name, r in zip(kept, names, taken, strict=True)],
            model=job.model.name,
            device=torch.cuda.get_device_name(job.device) if self.on_gpu else job.device.type,
            path=fvfast_kernels.describe(job.device)["backend"],
            dtype=str(job.dtype).removeprefix("torch."),
            size=job.size,
            seconds=seconds,
            steps=sum(r["done"] for r in taken),
            failures=failures,
            interrupted=self.interrupted,
            network=job.model,
            subjects=[self._subject(image) for image in kept],
        )
        result.notes = [*job.notes(), *notes(result)]
        return result

    def _rows(self, batch: Batch, judge: Tap, steps: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """What each image of a batch came to. Judged one objective at a time, so that company changes no bit."""
        job = self.job
        with torch.no_grad():
            canvas, alpha, shown = batch.image.canvas(), batch.image.alpha(), batch.image.shown()
        start_canvas = self._start(batch)
        view = batch.image.frame.view
        history = F.pad(batch.history.T, (0, steps - batch.steps), value=float("nan"))  # [B, steps]
        at = 0
        for objective, count in batch.objectives:
            chunks = [(at, at + count)] if objective.coupled else [(i, i + 1) for i in range(at, at + count)]
            for low, high in chunks:
                start = job.evaluate(judge, objective, start_canvas[low:high], view)
                end = job.evaluate(judge, objective, shown[low:high], view)
                for i in range(low, high):
                    done = min(batch.done, int(batch.ended[i]))
                    history[i, done:] = float("nan")
                    yield (
                        batch.rows[i],
                        {
                            "image": canvas[i].cpu(),
                            "alpha": None if alpha is None else alpha[i].cpu(),
                            "start": start[i - low],
                            "end": end[i - low],
                            "history": history[i],
                            "snapshots": [(step, image[i]) for step, image in batch.snapshots if step <= done],
                            "frames": _frames(batch, i, done),
                            "done": done,
                        },
                    )
            at += count

    def _start(self, batch: Batch) -> Tensor:
        """The canvas that a batch began with, made again from its seeds."""
        images = {image.row: image for image in self.plan}
        with torch.no_grad():
            return self._batch([images[row] for row in batch.rows]).image.shown()

    def _subject(self, image: ImagePlan) -> Subject:
        coupled = image.objective.coupled
        company = [other.seed for other in self.plan if other.objective is image.objective] if coupled else []
        return subject(image.objective, self.job.layers, company, self.job.handed(image.recipe))

    def _spec(self, image: ImagePlan, name: str, done: int) -> dict[str, Any]:
        recipe = image.recipe if done == image.recipe.steps else dataclasses.replace(image.recipe, steps=done)
        return {
            "model": self.job.model.name,
            "weights": self.job.model.weights,
            "target": name,
            "seed": image.seed,
            "size": self.job.size,
            "steps": done,
            "dtype": str(self.job.dtype).removeprefix("torch."),
            "recipe": recipe.to_dict(),
        }


def _frames(batch: Batch, row: int, done: int) -> list[tuple[int, Tensor]]:
    """An image's frames, of which the last is the image as it ended."""
    if not batch.frames_at:
        return []
    kept = [(step, image[row]) for step, image in batch.frames if step < done]
    with torch.no_grad():
        last = (batch.image.picture()[row].clamp(0, 1) * 255).round().byte().cpu()
    return [*kept, (done, last)]
