import importlib.util
import sys

import pytest
import torch
from torch import nn

import fvfast
from fvfast import generators
from fvfast.errors import FvfastError
from fvfast.generators import Generator, dcgan, find
from fvfast.images import Frame
from fvfast.objectives import channel
from fvfast.recipes import GENERATOR, Recipe, choose

CPU = torch.device("cpu")

have_faces = importlib.util.find_spec("gan_face_generate") is not None
have_biggan = importlib.util.find_spec("pytorch_pretrained_biggan") is not None


class Painter(nn.Module):
    """Four numbers to a picture of 8 x 8 px in -1..1; each moves the whole picture its own way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3 * 8 * 8)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, latent):
        return torch.tanh(self.drop(self.norm(self.linear(latent).view(-1, 3, 8, 8))))


@pytest.fixture(autouse=True)
def _nothing_found_yet():
    find.cache_clear()


def images(source, count=2, size=8, **changes):
    recipe = Recipe("g", image="generator:given", sd=1.0, **changes)
    frame = Frame(size, size, torch.zeros(3), torch.ones(3), torch.float32, CPU)
    latents = torch.stack([source.noise(size, torch.Generator().manual_seed(seed)) for seed in range(count)])
    return source([recipe] * count, latents, frame)


def test_the_canvas_is_what_the_generator_paints():
    painter = Painter()
    source = Generator(painter, (4,)).on(CPU)
    image = images(source)
    with torch.no_grad():
        expected = (painter.eval()(image.parameter) + 1) / 2
    assert torch.allclose(image.canvas(), expected)
    larger = images(source, size=20).canvas()
    assert larger.shape == (2, 3, 20, 20)
    assert larger.min() >= 0
    assert larger.max() <= 1
    assert torch.allclose(larger.mean((2, 3)), expected.mean((2, 3)), atol=0.02)


def test_a_generator_is_copied_frozen_and_in_eval_mode():
    painter = Painter().train()
    source = Generator(painter, (4,)).on(CPU)
    assert painter.training
    assert all(p.requires_grad for p in painter.parameters())
    assert not source.module.training
    assert not any(p.requires_grad for p in source.module.parameters())


def test_the_prior_is_the_weighted_square_of_the_latent():
    image = images(Generator(Painter(), (4,)).on(CPU), prior=0.3)
    expected = [0.3 * sum(z * z for z in row) for row in image.parameter.tolist()]
    assert image.prior(torch.zeros(2)).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_prior_keeps_the_latent_near_and_the_objective_lower(tiny):
    source = Generator(Painter(), (4,), name="small")
    free, held = (
        fvfast.render(tiny, "logits:3", image=source, recipe=Recipe("g", sd=1.0, steps=60, lr=0.1, prior=prior))
        for prior in (0.0, 0.5)
    )
    assert free.objective > free.objective_start
    assert free.objective > held.objective
    assert free.targets == ["logits:3"]
    assert free.specs[0]["recipe"]["image"] == "generator:small"
    # Held firmly, the latent ends where its prior is highest: at 0.
    with torch.no_grad():
        expected = (source.on(CPU).module(torch.zeros(1, 4)) + 1) / 2
        firm = Recipe("g", sd=1.0, steps=200, lr=0.05, prior=1e3)
        strict = fvfast.render(tiny, "logits:3", image=source, recipe=firm)
    expected = nn.functional.interpolate(expected, 32, mode="bicubic", align_corners=False).clamp(0, 1)
    assert torch.allclose(strict.images, expected, atol=0.01)


def test_a_truncated_latent_never_leaves_its_bounds(tiny):
    source = Generator(Painter(), (4,), truncation=0.5).on(CPU)
    starts = torch.stack([source.noise(8, torch.Generator().manual_seed(seed)) for seed in range(500)])
    assert starts.abs().max() <= 0.5
    assert float((starts.abs() > 0.499).float().mean()) < 0.02  # drawn again, not heaped up at the bound
    image = images(source)
    with torch.no_grad():
        image.parameter += 3
        image.settle()
    assert (image.parameter == 0.5).all()


def test_a_generator_that_does_not_fit_is_a_sentence(tiny):
    with pytest.raises(FvfastError, match=r"the generator given does not take latents of shape \[5\]"):
        fvfast.render(tiny, "logits:3", image=Generator(Painter(), (5,)))
    with pytest.raises(FvfastError, match=r"must make \[B, 3, h, w\] from \[B, ...\], not \[2, 4\]"):
        fvfast.render(tiny, "logits:3", image=Generator(nn.Identity(), (4,)))
    with pytest.raises(FvfastError, match=r"unknown generator 'dcgan-face' \(did you mean dcgan-faces\?\)"):
        fvfast.render(tiny, "logits:3", image="generator:dcgan-face")
    for image in ("generator:", "generator", "generater:x"):
        with pytest.raises(FvfastError, match="unknown image"):
            fvfast.render(tiny, "logits:3", image=image)
    with pytest.raises(FvfastError, match="unknown generator ''"):
        find("")


def test_the_default_recipe_for_generators():
    chosen = choose("default", channel("a", 1), image="generator:dcgan-faces", steps=5)
    assert (chosen.steps, chosen.sd, chosen.prior) == (5, 1.0, GENERATOR.prior)
    with pytest.raises(FvfastError, match="the recipe torch-dreams is made for another image"):
        choose("torch-dreams", channel("a", 1), image="generator:dcgan-faces")


def test_dcgan_paints_sixty_four_pixels():
    torch.manual_seed(0)
    module = dcgan(10, 8).eval()
    with torch.no_grad():
        output = module(torch.randn(2, 10, 1, 1))
    assert output.shape == (2, 3, 64, 64)
    assert output.abs().max() <= 1
    sizes = [tuple(layer.weight.shape) for layer in module if isinstance(layer, nn.ConvTranspose2d)]
    assert sizes == [(10, 64, 4, 4), (64, 32, 4, 4), (32, 16, 4, 4), (16, 8, 4, 4), (8, 3, 4, 4)]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed `gan_face_generate` whose code must not run; returns its folder."""
    folder = tmp_path / "site" / "gan_face_generate"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    monkeypatch.delitem(sys.modules, "gan_face_generate", raising=False)
    importlib.invalidate_caches()
    return folder


def test_the_faces_weights_are_read_and_their_package_is_not_run(package):
    torch.manual_seed(0)
    module = dcgan().eval()
    state = {f"main.{key}": value for key, value in module.state_dict().items()}
    torch.save({"netG_state_dict": state, "epoch": 3}, package / "weights.tar")
    source = find("dcgan-faces")
    latent = torch.randn(1, *source.latent_shape)
    with torch.no_grad():
        assert torch.equal(source.on(CPU).module(latent), module(latent))
    assert "gan_face_generate" not in sys.modules


def test_weights_that_are_missing_or_others_are_a_sentence(package):
    with pytest.raises(FvfastError, match=r"pip install 'fvfast\[gan\]'"):
        find("dcgan-faces")
    (package / "weights.tar").write_text("nothing")
    with pytest.raises(FvfastError, match="are not those of gan-face-generate"):
        find("dcgan-faces")
    torch.save({"netG_state_dict": dcgan(7).state_dict()}, package / "weights.tar")
    with pytest.raises(FvfastError, match="are not those of gan-face-generate"):
        find("dcgan-faces")
    with pytest.raises(FvfastError, match="dcgan-faces knows faces only"):
        find("dcgan-faces@goldfish")


@pytest.mark.skipif(not have_faces, reason="gan-face-generate is not installed")
def test_a_real_generator_of_faces_puts_lipstick_on():
    result = fvfast.render(target="logits:lipstick", image="generator:dcgan-faces", steps=16, lr=0.1)
    assert result.objective > result.objective_start + 2


# BigGAN ----------------------------------------------------------------------------------------------------


@pytest.fixture
def biggan(tmp_path):
    """A folder with a BigGAN of 16 px and ten classes, as its library saves it, with random weights."""
    library = pytest.importorskip("pytorch_pretrained_biggan", reason="pytorch-pretrained-biggan is not installed")
    config = library.BigGANConfig(
        output_dim=16,
        z_dim=8,
        class_embed_dim=8,
        channel_width=8,
        num_classes=10,
        layers=[(False, 16, 16), (True, 16, 8), (True, 8, 4), (False, 4, 2), (False, 2, 1)],
        attention_layer_position=3,
        n_stats=51,
    )
    torch.manual_seed(0)
    model = library.BigGAN(config).train()
    nn.init.ones_(model.generator.bn.weight)
    nn.init.zeros_(model.generator.bn.bias)
    with torch.no_grad():
        for _ in range(20):  # the power iterations of spectral normalisation, which training would have taken
            model(torch.randn(1, 8), torch.eye(10)[:1], 0.4)
    model.eval()
    folder = tmp_path / "biggan"
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json_string())
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder, model


def test_a_biggan_paints_what_its_library_paints(biggan):
    folder, model = biggan
    source = find(f"{folder}@3").on(CPU)
    z = torch.linspace(-1, 1, 8)[None]
    onehot = torch.zeros(1, 10)
    onehot[0, 3] = 1
    with torch.no_grad():
        expected = model(0.4 * z, onehot, 0.4)
        found = source.module(torch.cat([z, torch.zeros(1, 8)], 1))
    assert found.shape == (1, 3, 16, 16)
    assert torch.allclose(found, expected, atol=1e-5)
    assert expected.std() > 1e-3


def test_a_biggans_class_embedding_is_learnt_too(biggan, tiny):
    folder, _ = biggan
    source = find(str(folder)).on(CPU)
    latent = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    source.module(latent).square().sum().backward()
    assert latent.grad is not None
    assert latent.grad[0, :8].any()
    assert latent.grad[0, 8:].any()
    result = fvfast.render(tiny, "logits:2", image=f"generator:{folder}@7", steps=30, lr=0.1)
    assert result.objective > result.objective_start
    with pytest.raises(FvfastError, match="has classes 0-9, not 10"):
        find(f"{folder}@10")


def test_biggan_that_cannot_be_had_is_a_sentence(monkeypatch, tmp_path):
    if not have_biggan:
        with pytest.raises(FvfastError, match=r"pip install 'fvfast\[biggan\]'"):
            find("biggan-deep-128")
        return

    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(generators.urllib.request, "urlopen", unreachable)
    with pytest.raises(FvfastError, match=r"no weights for biggan-deep-128 could be had \(OSError\): name a folder"):
        find("biggan-deep-128")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FvfastError, match="could be had"):
        find(str(tmp_path))
