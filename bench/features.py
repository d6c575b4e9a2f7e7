"""Do renders show what a feature looks for? 24 channels of the bundled network against chance and plain pixels.

For each channel, its objective on three images: the default recipe's render, the best of 1,000 noise images with
the spectrum of photographs (amplitude 1/f, ImageNet's colour statistics, contrasts of 0.02 to 0.3), and plain
gradient ascent on pixels with as many steps. Writes docs/features.md's table and pictures.
"""

from __future__ import annotations

import argparse

import torch

import fvfast
from bench.report import DOCS, keep
from fvfast import files, quality
from fvfast.expressions import Context
from fvfast.job import Job
from fvfast.judging import noise_images
from fvfast.layers import Tap
from fvfast.optimize import layers_of

SIZE = 224
# Four channels at each of six depths; the first four, so none is chosen for its looks.
TARGETS = [f"_blocks.{block}:{channel}" for block in (2, 4, 6, 8, 10, 12) for channel in range(4)]


def best_of_noise(count: int) -> list[float]:
    """The largest objective of each target over `count` noise images."""
    job = Job(fvfast.load(), torch.device("cpu"), torch.float32, SIZE, None)
    objectives = job.objectives(TARGETS)
    mean, std = (torch.tensor(v)[:, None, None] for v in (job.model.mean, job.model.std))
    best = torch.full((len(objectives),), float("-inf"))
    with Tap(job.module, job.layers, layers_of(objectives)) as tap, torch.no_grad():
        for start in range(0, count, 50):
            seen = (noise_images(min(50, count - start), SIZE, seed=start) - mean) / std
            context = Context(tap(seen), layers=job.layers)
            values = torch.stack([objective.value(context) for objective in objectives])  # [24, 50]
            best = torch.maximum(best, values.amax(1))
    return best.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", type=int, default=1000, help="how many noise images (default 1000)")
    arguments = parser.parse_args()
    fourier = fvfast.render(target=TARGETS)
    pixels = fvfast.render(target=TARGETS, recipe="plain")
    noise = best_of_noise(arguments.noise)
    slopes = quality.spectrum_slope(fourier.images), quality.spectrum_slope(pixels.images)
    shares = quality.high_frequency(fourier.images), quality.high_frequency(pixels.images)
    rows = [
        [
            f"`{target}`",
            f"{noise[i]:.2f}",
            f"{fourier.objective[i]:.2f}",
            f"{fourier.objective[i] / noise[i]:.1f}" if noise[i] > 0 else "> 0",
            f"{slopes[0][i]:.2f}",
            f"{shares[0][i]:.2f}",
            f"{pixels.objective[i]:.2f}",
            f"{slopes[1][i]:.2f}",
            f"{shares[1][i]:.2f}",
        ]
        for i, target in enumerate(fourier.targets)
    ]
    beaten = sum(end >= 2 * max(chance, 0) for end, chance in zip(fourier.objective.tolist(), noise, strict=True))
    header = ["target", f"best of {arguments.noise} noise", "fvfast", "ratio", "slope", "HF", "pixels", "slope", "HF"]
    summary = (
        f"{beaten} of {len(rows)} channels reach at least twice the best noise image. Mean spectrum slope "
        f"{slopes[0].mean():.2f} for the renders, {slopes[1].mean():.2f} for plain pixels; mean share of energy beyond "
        f"half the Nyquist frequency {shares[0].mean():.2f} and {shares[1].mean():.2f}."
    )
    keep("features", "python -m bench.features", header, rows, after=summary)
    for name, result in (("fourier", fourier), ("pixels", pixels)):
        files.sheet(
            [files.to_pil(image) for image in result.images],
            result.targets,
            [f"{value:.1f}" for value in result.objective.tolist()],
            columns=8,
            tile=160,
        ).save(DOCS / "images" / f"features-{name}.webp", quality=85)


if __name__ == "__main__":
    main()
