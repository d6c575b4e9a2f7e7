"""The classic systems side by side: pixels, Fourier, phases and a generator on the same features; DeepDream both ways.

Writes docs/classics.md's tables and pictures. Needs the generator of faces (pip install 'fvfast[gan]') and a
photograph: --photo FILE, or scikit-image's cat, where that is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import PIL.Image
import torch

import fvfast
from bench.report import DOCS, stamp, table, write_block
from fvfast import files, generators, photographs, quality
from fvfast.expressions import Context
from fvfast.job import Job
from fvfast.layers import Tap
from fvfast.optimize import layers_of
from fvfast.result import Render

FACES = "generator:dcgan-faces"
TARGETS = ["_blocks.4:1", "_blocks.10:9", "_blocks.12:7", "logits:goldfish", "logits:daisy", "logits:wig"]
WAYS = {"pixel": {"recipe": "plain"}, "fourier": {}, "phase": {"recipe": "maco"}, "generator": {"image": FACES}}
FACE_LIKE = ["logits:wig", "logits:cowboy hat", "logits:lipstick", "logits:sunglasses"]
OTHERS = ["logits:goldfish", "logits:daisy", "logits:pizza", "logits:soccer ball"]
PHOTO_SIZE = (768, 512)
SEEDS = 4


def side_by_side() -> str:
    """Six features by four ways: a sheet, and a table of their means."""
    rendered: dict[str, Render] = {}
    for way, options in WAYS.items():
        rendered[way] = fvfast.render(target=TARGETS, **options)
        print(way, rendered[way].objective.tolist(), flush=True)
    pictures, titles, captions = [], [], []
    for way, result in rendered.items():
        slopes = quality.spectrum_slope(result.images).tolist()
        for image, target, end, slope in zip(
            result.images, result.targets, result.objective.tolist(), slopes, strict=True
        ):
            pictures.append(files.to_pil(image))
            titles.append(f"{target}, {way}")
            captions.append(f"objective {end:.1f}, slope {slope:.2f}")
    page = files.sheet(pictures, titles, captions, columns=len(TARGETS), tile=200)
    page.save(DOCS / "images" / "classics.webp", quality=85)
    rows = [
        [f"`{target}`", *(f"{result.objective[i]:.1f}" for result in rendered.values())]
        for i, target in enumerate(rendered["fourier"].targets)
    ]
    for name, measure in (("spectrum slope", quality.spectrum_slope), ("HF", quality.high_frequency)):
        rows.append([f"*{name}*", *(f"{measure(result.images).mean():.2f}" for result in rendered.values())])
    opacity = rendered["phase"]
    clear = [files.to_pil(image) for image in opacity.images]
    for picture, alpha in zip(clear, opacity.alphas, strict=True):
        assert alpha is not None
        picture.putalpha(PIL.Image.fromarray((alpha * 255).round().byte().numpy()))
    paper = [PIL.Image.alpha_composite(PIL.Image.new("RGBA", p.size, (*files.PAPER, 255)), p) for p in clear]
    sheet = files.sheet([p.convert("RGB") for p in paper], opacity.targets, [""] * len(paper), columns=6, tile=200)
    sheet.save(DOCS / "images" / "classics-alpha.webp", quality=85)
    return table(["feature", *WAYS], rows)


def best_of_random(targets: list[str], count: int = 64) -> list[float]:
    """The largest objective of each target over faces from random latents."""
    job = Job(fvfast.load(), torch.device("cpu"), torch.float32, 224, None)
    objectives = job.objectives(targets)
    source = generators.find("dcgan-faces").on(job.device)
    latents = torch.stack([source.noise(224, torch.Generator().manual_seed(seed)) for seed in range(count)])
    best = torch.full((len(objectives),), float("-inf"))
    mean, std = (torch.tensor(v)[:, None, None] for v in (job.model.mean, job.model.std))
    with Tap(job.module, job.layers, layers_of(objectives)) as tap, torch.no_grad():
        for part in latents.split(16):
            faces = torch.nn.functional.interpolate(source.to_rgb(source.module(part)), 224, mode="bicubic").clamp(0, 1)
            context = Context(tap((faces - mean) / std), layers=job.layers)
            best = torch.maximum(best, torch.stack([objective.value(context).amax() for objective in objectives]))
    return best.tolist()


def warning() -> str:
    """What a generator of faces reaches on what faces have, and on what they have not."""
    targets = FACE_LIKE + OTHERS
    faces = fvfast.render(target=targets, image=FACES, copies=SEEDS)
    # A latent has few numbers and its objective many maxima: where it starts decides, so the best of some is taken.
    ends = faces.objective.view(len(targets), SEEDS)
    best = ends.argmax(1) + SEEDS * torch.arange(len(targets))
    fourier = fvfast.render(target=targets)
    chance = best_of_random(targets)
    rows = [
        [
            f"`{target}`",
            f"{chance[i]:.1f}",
            f"{ends[i].mean():.1f}",
            f"{ends[i].amax():.1f}",
            f"{fourier.objective[i]:.1f}",
        ]
        for i, target in enumerate(targets)
    ]
    shares = [float(ends.amax(1)[part].mean() / fourier.objective[part].mean()) for part in (slice(0, 4), slice(4, 8))]
    captions = [f"objective {value:.1f}" for value in faces.objective[best].tolist()]
    sheet = files.sheet([files.to_pil(image) for image in faces.images[best]], targets, captions, columns=8, tile=160)
    sheet.save(DOCS / "images" / "classics-faces.webp", quality=85)
    header = ["class", "best of 64 random faces", f"generator, mean of {SEEDS} seeds", "best", "Fourier"]
    summary = (
        f"On what faces wear the generator reaches {shares[0]:.0%} of what Fourier does, on the other classes "
        f"{shares[1]:.0%}: and shows a face all the same."
    )
    return f"{table(header, rows)}\n\n{summary}"


def dreams(photo: Path) -> str:
    """One photograph dreamt over in pixels and in the Fourier basis, and by every preset."""
    picture = PIL.Image.open(photo).convert("RGB").resize(PHOTO_SIZE, PIL.Image.Resampling.LANCZOS)
    image = photographs.to_tensor(picture)
    rows, pictures = [], []
    for basis in ("pixel", "fourier"):
        result = fvfast.dream(image, basis=basis)
        print(basis, result.objective_start, result.objective, result.seconds, flush=True)
        pictures.append(files.to_pil(result.image))
        slope = quality.spectrum_slope(result.image[None]).item()
        change = (result.image - image).abs().mean().item()
        figures = (result.objective_start, result.objective)
        rows.append([basis, *(f"{v:.1f}" for v in figures), f"{slope:.2f}", f"{change:.3f}"])
    before = quality.spectrum_slope(image[None]).item()
    rows.append(["*the photograph*", "", "", f"{before:.2f}", ""])
    _beside(pictures).save(DOCS / "images" / "dream-bases.webp", quality=85)
    presets = [files.to_pil(fvfast.dream(image, preset=name).image) for name in ("garden", "patterns", "engraving")]
    presets[0].save(DOCS / "images" / "dream.webp", quality=85)
    _beside([picture, *presets]).save(DOCS / "images" / "dream-presets.webp", quality=85)
    return table(["basis", "objective before", "after", "slope", "mean change"], rows)


def _beside(pictures: list[PIL.Image.Image], width: int = 600) -> PIL.Image.Image:
    """Pictures of one size, two in a row."""
    height = round(width * pictures[0].height / pictures[0].width)
    page = PIL.Image.new("RGB", (2 * width + 8, -(-len(pictures) // 2) * (height + 8) - 8), files.PAPER)
    for i, picture in enumerate(pictures):
        small = picture.resize((width, height), PIL.Image.Resampling.LANCZOS)
        page.paste(small, ((i % 2) * (width + 8), (i // 2) * (height + 8)))
    return page


def find_photograph(given: Path | None) -> Path:
    """The photograph that was named, or scikit-image's cat."""
    if given is not None:
        return given
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("name a photograph with --photo FILE, or pip install scikit-image for its cat")
    return Path(spec.origin).parent / "data" / "chelsea.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, help="the photograph to dream over (default: scikit-image's cat)")
    photo = find_photograph(parser.parse_args().photo)
    document = DOCS / "classics.md"
    write_block(document, "dream", f"{dreams(photo)}\n\nMeasured on {stamp()}.")
    write_block(document, "ways", f"{side_by_side()}\n\nMeasured on {stamp()}.")
    write_block(document, "faces", f"{warning()}\n\nMeasured on {stamp()}.")


if __name__ == "__main__":
    main()
