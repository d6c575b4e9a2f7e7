import json

import pytest

from fvfast.errors import FvfastError
from fvfast.objectives import channel, l2, logit, neuron
from fvfast.recipes import RECIPES, Recipe, choose
from fvfast.views import Views

ODD = Recipe(
    "odd",
    image="pixel",
    steps=7,
    lr=0.3,
    size=48,
    view=64,
    views=Views(jitter=2.5, zoom=(0.5, 1.5), stretch=1.1, shear=3, rotate=4, choices=(1.0, 2.5), border="mean", pad=6),
    envelope="torch-dreams",
    decay=0.5,
    sd=0.2,
    gain=0.7,
    decorrelate=False,
    clip=2.0,
)


@pytest.mark.parametrize("recipe", [ODD, *RECIPES.values()], ids=lambda r: r.name)
def test_a_recipe_survives_json(recipe):
    written = json.loads(json.dumps(recipe.to_dict()))
    assert Recipe.from_dict(written) == recipe
    assert hash(Recipe.from_dict(written)) == hash(recipe)  # lists have become tuples again


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("views"),
        lambda d: d.update(colour="blue"),
        lambda d: d["views"].update(tilt=3),
        lambda d: d["views"].pop("zoom"),
        lambda d: d.pop("name"),
        lambda d: d.update(views=3),
    ],
)
def test_another_versions_recipe_is_refused(spoil):
    written = json.loads(json.dumps(ODD.to_dict()))
    spoil(written)
    with pytest.raises(FvfastError, match="this recipe was written by another version of fvfast"):
        Recipe.from_dict(written)


def test_the_named_recipes():
    assert set(RECIPES) >= {"default", "lucent", "torch-dreams", "plain"}
    assert all(name == recipe.name for name, recipe in RECIPES.items())


def test_lucents_constants():
    recipe = RECIPES["lucent"]
    assert (recipe.steps, recipe.lr, recipe.size, recipe.sd, recipe.gain) == (512, 0.05, 128, 0.01, 0.25)
    assert (recipe.envelope, recipe.decay, recipe.decorrelate, recipe.image) == ("lucid", 1.0, True, "fourier")
    assert recipe.view == 224
    choices = recipe.views.choices
    assert (min(choices), max(choices), len(choices), choices.count(0)) == (-10, 10, 26, 6)
    assert recipe.views.pad == 12


def test_torch_dreams_constants():
    recipe = RECIPES["torch-dreams"]
    assert (recipe.steps, recipe.lr, recipe.size, recipe.gain, recipe.clip) == (120, 9e-3, 256, 1.0, 1.0)
    assert (recipe.envelope, recipe.decay, recipe.views.rotate) == ("torch-dreams", 0.75, 15)


def test_classes_and_layers_have_figures_of_their_own():
    for_layer, for_class = choose("default", channel("a", 1)), choose("default", logit(1))
    assert for_layer != for_class
    assert for_layer.name == for_class.name == "default"
    assert choose("default", logit(1) - 0.1 * l2()) == for_class
    assert choose("default", logit(1) + neuron("a", 1)) == for_layer
    assert choose("default", l2()) == for_layer
    assert choose("lucent", logit(1)) == choose("lucent", channel("a", 1)) == RECIPES["lucent"]


def test_what_the_user_says_wins():
    recipe = choose("lucent", channel("a", 1), steps=9, lr=0.5, size=80)
    assert (recipe.steps, recipe.lr, recipe.size) == (9, 0.5, 80)
    assert RECIPES["lucent"].steps == 512
    assert choose("plain", channel("a", 1), image="pixel") == RECIPES["plain"]


def test_the_gain_belongs_to_the_spectrum():
    assert choose("default", channel("a", 1), image="pixel").gain == 1.0
    assert choose("default", channel("a", 1), image="fourier").gain == RECIPES["default"].gain


@pytest.mark.parametrize(
    ("name", "image", "sentence"),
    [
        ("lucnt", None, "unknown recipe 'lucnt' (did you mean lucent?)"),
        ("zzz", None, "unknown recipe 'zzz'; there are default, lucent, torch-dreams, plain"),
        ("default", "forier", "unknown image 'forier' (did you mean fourier?); there are fourier, pixel"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name, image, sentence):
    with pytest.raises(FvfastError) as caught:
        choose(name, channel("a", 1), image=image)
    assert sentence in str(caught.value)
