"""The promises of `render`, on real networks of random weights and on small ones."""

import copy
import dataclasses
import functools

import pytest
import torch

import fvfast
from fvfast import objectives as o
from fvfast import rendering
from fvfast.errors import FvfastError
from fvfast.models import Model, load
from fvfast.recipes import RECIPES, Recipe
from fvfast.views import Views

render = functools.partial(fvfast.render, size=32, steps=3)


def refused(*arguments, **options):
    with pytest.raises(FvfastError) as caught:
        fvfast.render(*arguments, **{"steps": 1, "size": 32, **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What a render is ------------------------------------------------------------------------------------------


def test_a_render_in_numbers(tiny):
    result = render(tiny, ["deep:3,4", "logits:bee"], steps=5, seed=7, copies=2)
    assert result.targets == ["deep:3", "deep:3", "deep:4", "deep:4", "logits:bee", "logits:bee"]
    assert result.seeds == [7, 8, 7, 8, 7, 8]
    assert result.images.shape == (6, 3, 32, 32)
    assert result.images.dtype == torch.float32
    assert 0 <= result.images.min() < result.images.max() <= 1
    assert result.history.shape == (6, 5)
    assert result.history.isfinite().all()
    assert len(result) == 6
    assert result.steps == 30
    assert (result.model, result.device, result.path, result.dtype, result.size) == (
        "tiny",
        "cpu",
        "reference",
        "float32",
        32,
    )
    assert result.seconds > 0
    assert (result.failures, result.notes, result.interrupted) == ([], [], False)
    assert [spec["seed"] for spec in result.specs] == result.seeds
    assert result.specs[4]["target"] == "logits:bee"
    assert result.specs[4]["recipe"]["steps"] == 5


def test_the_objective_is_that_of_the_canvas_in_the_unmodified_network(tiny):
    result = render(tiny, ["deep_norm:2", "logits:1", "stem:2@5,6"], steps=12)
    net = tiny.module.eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in (tiny.mean, tiny.std))
    seen = (result.images - mean) / std
    with torch.no_grad():
        stem = net.stem(seen)
        deep = net.deep_norm(net.deep(torch.relu(net.norm(stem))))
        logits = net.head(deep.relu().mean((2, 3)))
    expected = [deep[0, 2].mean(), logits[1, 1], stem[2, 2, 5, 6]]
    # float32, summed in another order
    torch.testing.assert_close(result.objective, torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert (result.objective > result.objective_start).all()


def test_ascent_climbs_well_above_its_start(tiny):
    result = render(tiny, ["deep:0-5"], steps=40, lr=0.3)
    assert (result.objective - result.objective_start > 0.1).all()
    # the history sees other views, but of the same climb
    assert (result.history[:, -10:].mean(1) > result.history[:, :10].mean(1)).all()


def test_pixels_can_be_optimised_too(tiny):
    result = render(tiny, "deep:3", image="pixel", steps=20)
    assert result.objective > result.objective_start + 0.1
    assert result.recipes[0].image == "pixel"
    # Fourier noise is smooth, pixels are not: neighbours differ more
    smooth = render(tiny, "deep:3", steps=20)
    rough = [(r.images.diff(dim=3).abs().mean() / r.images.std()).item() for r in (result, smooth)]
    assert rough[0] > 1.2 * rough[1]


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_named_recipe_renders(tiny, recipe):
    result = render(tiny, "deep:3", recipe=recipe, steps=8)
    assert result.objective > result.objective_start
    assert result.recipes[0].name == recipe


def test_a_recipe_of_ones_own(tiny):
    mine = Recipe("mine", steps=4, lr=0.1, size=40, views=Views(rotate=20, border="mean"))
    result = fvfast.render(tiny, "deep:3", recipe=mine)
    assert (result.size, result.history.shape) == (40, (1, 4))
    changed = fvfast.render(tiny, "deep:3", recipe=mine, steps=2, size=32, lr=0.2)
    assert changed.recipes == [dataclasses.replace(mine, steps=2, size=32, lr=0.2)]


def test_the_size_is_the_networks_own_unless_told(tiny):
    assert fvfast.render(tiny, "stem:1", steps=1).size == 32


def test_a_view_of_another_size_still_means_the_same_position(nets):
    """A canvas of 32 px seen at 64 px: the layer's grid is the view's, and its centre is the canvas's."""

    class Bright(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.map = torch.nn.AvgPool2d(8)

        def forward(self, x):
            return self.map(x)

    model = Model("bright", "none", Bright(), (0.0,) * 3, (1.0,) * 3, 64)
    recipe = Recipe("wide", view=64, steps=30, lr=0.2, size=32)
    centre = fvfast.render(model, o.neuron("map", 0), recipe=recipe)
    corner = fvfast.render(model, "map:0@0,0", recipe=recipe)
    # 64 px make a grid of 8x8; its cell (4, 4) sees canvas pixels 16 to 19
    assert centre.images[0, 0, 16:20, 16:20].mean() > centre.images[0, 0].mean() + 0.2
    assert corner.images[0, 0, 0:4, 0:4].mean() > corner.images[0, 0].mean() + 0.2
    last = fvfast.render(model, "map:0@7,7", recipe=recipe)
    assert last.images[0, 0, 28:, 28:].mean() > last.images[0, 0].mean() + 0.2
    assert "8x8 at this size" in refused(model, "map:0@8,0", recipe=recipe)


def test_an_objective_on_one_image_and_a_list_of_kinds(tiny):
    vector = torch.zeros(12)
    vector[3] = 1.0
    result = render(
        tiny,
        [o.channel("deep", 3) - o.l2(), "deep:3", o.direction("deep", vector), o.layer("stem") * 2, o.logit(2)],
        steps=6,
    )
    assert result.targets == ["deep:3 - l2", "deep:3", "deep:direction", "stem * 2", "logits:2"]
    assert (result.objective > result.objective_start).all()
    # a direction along one axis is that channel
    torch.testing.assert_close(result.objective[2], result.objective[1], rtol=1e-4, atol=1e-5)


def test_a_penalty_does_what_it_says(tiny):
    plain, calm = render(tiny, [o.channel("deep", 3), o.channel("deep", 3) - 50 * o.l2()], steps=30).images
    assert (calm - 0.5).square().mean() < 0.3 * (plain - 0.5).square().mean()


def test_diversity_drives_copies_apart(tiny):
    diverse = o.channel("deep", 3) + 20 * o.diversity("deep_act")
    apart = render(tiny, diverse, steps=25, copies=2)
    alike = render(tiny, o.channel("deep", 3), steps=25, copies=2)

    def likeness(result):
        seen = (result.images - 0.45) / 0.225
        maps = tiny.module.eval().deep_act(
            tiny.module.deep_norm(tiny.module.deep(tiny.module.norm(tiny.module.stem(seen)).relu()))
        )
        gram = torch.einsum("bchw,bdhw->bcd", maps, maps).flatten(1)
        return torch.nn.functional.cosine_similarity(gram[0], gram[1], dim=0).item()

    with torch.no_grad():
        assert likeness(apart) < likeness(alike)


# Reproducible ----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tiny):
    first = render(tiny, "deep:3", seed=5)
    render(tiny, "stem:1", size=48)  # something else in between
    torch.randn(100)
    again = render(tiny, "deep:3", seed=5)
    assert again.images.equal(first.images)
    assert again.history.equal(first.history)
    assert again.objective.equal(first.objective)
    assert not render(tiny, "deep:3", seed=6).images.equal(first.images)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_targets_rendered_together_equal_those_rendered_alone(name):
    model = load(name, "none")
    names = {
        # a convolution whose batch-norm is folded for the others, that batch-norm, a block, the logits
        "resnet18": ["conv1:3", "bn1:3", "layer1.0.conv1:1", "layer2:5@1,1", "logits:daisy"],
        "efficientnet_lite0": ["_conv_stem:3", "_blocks.2:1", "_blocks.5._depthwise_conv:2", "logits:3"],
    }[name]
    together = fvfast.render(model, names, size=32, steps=2)
    for at, target in enumerate(names):
        alone = fvfast.render(model, target, size=32, steps=2)
        assert together.images[at].equal(alone.images[0]), target
        assert together.objective[at].equal(alone.objective[0]), target
        assert together.objective_start[at].equal(alone.objective_start[0]), target
        assert together.history[at].equal(alone.history[0]), target


def test_copies_rendered_together_equal_those_rendered_alone(tiny):
    together = render(tiny, ["deep:3", "stem:2"], copies=3)
    for at, (target, seed) in enumerate([(t, s) for t in ("deep:3", "stem:2") for s in range(3)]):
        assert together.images[at].equal(render(tiny, target, seed=seed).images[0])


def test_a_batch_in_one_tensor_equals_one_by_one(tiny):
    targets = ["deep:3", "deep_act:1", "logits:2"]
    apart = render(tiny, targets, steps=6)
    together = render(tiny, targets, steps=6, batch=3)
    # Sums in another order, 1e-7 each, through six of Adam's normalised steps of 0.05
    torch.testing.assert_close(together.images, apart.images, rtol=0, atol=1e-4)
    torch.testing.assert_close(together.objective, apart.objective, rtol=1e-3, atol=1e-4)
    assert together.targets == apart.targets


def test_fewer_steps_are_the_beginning_of_more(tiny):
    long = render(tiny, "deep:3", steps=9, every=4)
    short = render(tiny, "deep:3", steps=4)
    assert [step for step, _ in long.snapshots[0]] == [4, 8]
    assert long.snapshots[0][0][1].equal(short.images[0])
    assert long.history[:, :4].equal(short.history)


def test_layers_and_classes_of_different_lengths_share_a_table(tiny):
    result = fvfast.render(tiny, ["deep:3", "logits:2"], size=32)
    lengths = [recipe.steps for recipe in result.recipes]
    assert lengths[0] != lengths[1]
    assert result.history.shape == (2, max(lengths))
    assert [int(row.isfinite().sum()) for row in result.history] == lengths


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_comes_near_and_is_judged_in_float32(tiny, halves, dtype):
    full, half = render(tiny, "deep:3", steps=20), render(tiny, "deep:3", steps=20, dtype=dtype)
    assert half.dtype == dtype
    assert half.images.dtype == half.objective.dtype == torch.float32
    assert not half.images.equal(full.images)
    gain = (half.objective - half.objective_start) / (full.objective - full.objective_start)
    assert gain.item() == pytest.approx(1, abs=0.1)  # as far up, within a tenth
    assert half.objective_start.equal(full.objective_start)


# The user's own module -------------------------------------------------------------------------------------


def test_the_users_module_is_left_exactly_as_it_was(nets):
    net = nets.Tiny().train()
    net.deep.eval()
    net.stem.weight.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    net.register_forward_hook(lambda *_: None)
    before = {
        "state": copy.deepcopy(net.state_dict()),
        "training": {name: child.training for name, child in net.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in net.named_parameters()},
        "identities": {name: id(p) for name, p in net.named_parameters()},
        "hooks": {name: list(child._forward_hooks) for name, child in net.named_modules()},
        "inplace": (net.act.inplace, net.deep_act.inplace),
        "keys": sorted(vars(net)),
    }
    render(net, ["stem:1", "deep_act:2", "logits:3"], every=1)
    assert all(net.state_dict()[key].equal(value) for key, value in before["state"].items())
    assert {name: child.training for name, child in net.named_modules()} == before["training"]
    assert {name: p.requires_grad for name, p in net.named_parameters()} == before["requires_grad"]
    assert {name: id(p) for name, p in net.named_parameters()} == before["identities"]
    assert {name: list(child._forward_hooks) for name, child in net.named_modules()} == before["hooks"]
    assert (net.act.inplace, net.deep_act.inplace) == before["inplace"]
    assert sorted(vars(net)) == before["keys"]
    assert net.head.weight.grad is not None
    assert net.head.weight.grad.equal(torch.ones_like(net.head.weight))
    assert all(p.grad is None for name, p in net.named_parameters() if name != "head.weight")


def test_the_callers_threads_and_random_state_are_left_as_they_were(tiny):
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    render(tiny, "deep:3", threads=1)
    assert torch.get_num_threads() == threads
    assert torch.random.get_rng_state().equal(state)


def test_no_grad_around_a_render_does_not_matter(tiny):
    with torch.no_grad():
        inside = render(tiny, "deep:3")
    assert inside.images.equal(render(tiny, "deep:3").images)


# Networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target", "size"),
    [
        ("resnet18", "layer2:5", 64),
        ("googlenet", "inception4a:5", 64),
        ("convnext_tiny", "features.3:5", 64),
        ("swin_t", "features.3:5", 64),
        ("vit_b_16", "encoder.layers.encoder_layer_2:5@3,4", 64),
        ("timm:resnet26", "layer2.0.conv2:5", 64),
        ("vgg16", "features.14:5", 64),
    ],
)
def test_a_channel_of_a_middle_layer_of_every_family(name, target, size):
    model = load(name, "none")
    result = fvfast.render(model, target, size=size, steps=8)
    assert result.images.shape == (1, 3, size, size)
    assert result.targets == [target]
    assert result.objective > result.objective_start
    only = f"{name} sees images of 224 px: the canvas of 64 px is brought to that size"
    assert result.notes == ([only] if name == "vit_b_16" else [])
    assert result.images.std() > 0.005


def test_a_token_grid_is_the_images_grid(nets):
    """The neuron at patch (y, x) of a network for 32 px looks at that eighth of the canvas and nowhere else."""
    model = Model("tokens", "none", nets.Tokens(), size=32)
    still = Recipe("still", steps=2, lr=0.1, size=64, image="pixel", gain=1.0, sd=0.01)
    start = fvfast.render(model, "embed:1@2,1", recipe=dataclasses.replace(still, lr=1e-9))
    moved = fvfast.render(model, "embed:1@2,1", recipe=still)
    changed = (moved.images - start.images).abs().amax((0, 1)) > 1e-4  # [64, 64]
    rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
    # patch (2, 1) of 4 x 4 is rows 32-47, columns 16-31 of 64; resampling may touch a pixel beyond
    assert 31 <= rows.min() <= 33
    assert 46 <= rows.max() <= 48
    assert 15 <= columns.min() <= 17
    assert 30 <= columns.max() <= 32


# Progress, stopping ----------------------------------------------------------------------------------------


def test_progress_counts_up_to_the_end(tiny):
    seen = []
    render(tiny, ["deep:3,4,5"], steps=20, progress=seen.append)
    assert all(0 <= p.steps_done <= p.steps_total == 60 and p.images_total == 3 for p in seen)
    assert [p.steps_done for p in seen] == sorted(p.steps_done for p in seen)
    last = seen[-1]
    assert (last.steps_done, last.images_done) == (60, 3)
    assert last.value == last.value


def test_a_stopped_render_keeps_what_there_is_and_can_be_repeated(nets):
    model = Model("slow", "none", nets.Slow(), size=32)
    done = []
    result = fvfast.render(
        model,
        ["conv:0-3"],
        size=32,
        steps=2000,
        threads=1,
        progress=lambda p: done.append(p.steps_done),
        stop=lambda: done[-1] >= 6,
    )
    assert result.interrupted
    assert 1 <= len(result) <= 4
    for i, spec in enumerate(result.specs):
        assert 0 < spec["steps"] == spec["recipe"]["steps"] < 2000
        assert int(result.history[i].isfinite().sum()) == spec["steps"]
    assert result.steps == sum(spec["steps"] for spec in result.specs)
    again = fvfast.render(model, result.targets[0], recipe=Recipe.from_dict(result.specs[0]["recipe"]))
    assert again.images[0].equal(result.images[0])


# What cannot be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 15}, "size must be 16 to 1024 px, not 15"),
        ({"size": 1025}, "size must be 16 to 1024 px, not 1025"),
        ({"size": 0}, "size must be 16 to 1024 px, not 0"),
        ({"size": -3}, "size must be 16 to 1024 px, not -3"),
        ({"steps": 0}, "steps must be 1 or more, not 0"),
        ({"lr": 0.0}, "lr must be above 0, not 0.0"),
        ({"lr": -1.0}, "lr must be above 0, not -1.0"),
        ({"lr": float("nan")}, "lr must be above 0, not nan"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        ({"seed": 2**63}, "seed must be below 2^63, not 9223372036854775808"),
        ({"copies": 0}, "copies must be 1 or more, not 0"),
        ({"batch": 0}, "batch must be 1 or more, not 0"),
        ({"every": 0}, "every must be 1 or more, not 0"),
        ({"threads": 0}, "threads must be 1 or more, not 0"),
        ({"device": "gpu"}, "device 'gpu' cannot be used here; there is cpu"),
        ({"device": "meta"}, "device 'meta' cannot be used here; there is cpu"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here; there is cpu"),
        ({"dtype": "float31"}, "unknown dtype 'float31'; there are float32, bfloat16, float16"),
        ({"recipe": "lucnt"}, "unknown recipe 'lucnt' (did you mean lucent?)"),
        ({"image": "oil"}, "unknown image 'oil' (did you mean pixel?); there are fourier, pixel"),
        (
            {"recipe": RECIPES["lucent"], "image": "oil"},
            "unknown image 'oil' (did you mean pixel?); there are fourier, pixel",
        ),
        (
            {"recipe": Recipe("mine", image="oil")},
            "unknown image 'oil' (did you mean pixel?); there are fourier, pixel",
        ),
        ({"steps": 10**13}, "steps must be at most 1000000, not 10000000000000"),
    ],
)
def test_a_bad_option_is_refused(tiny, options, sentence):
    assert sentence in refused(tiny, "deep:3", **options)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (None, "name at least one target; `fvfast layers tiny` lists the layers"),
        ([], "name at least one target"),
        ("deap:3", "tiny has no layer 'deap' with a tensor output (did you mean deep"),
        (o.channel("deap", 3), "tiny has no layer 'deap' with a tensor output (did you mean deep"),
        (o.channel("deep", 3) + o.channel("deap", 3), "tiny has no layer 'deap'"),
        (o.channel("deep", 12), "deep has channels 0-11, not 12"),
        (["deep:3", "deep:99"], "deep has channels 0-11, not 99"),
    ],
)
def test_a_bad_target_is_refused_before_any_step(tiny, target, sentence):
    assert sentence in refused(tiny, target)


def test_a_module_without_a_tensor_cannot_be_a_target(nets):
    assert "the layer words of Mute cannot be a target: its output holds no tensor" in refused(nets.Mute(), "words:0")


def test_an_image_too_small_names_the_size_that_works(nets):
    sentence = refused(Model("multiples", "none", nets.Multiples()), "conv:1", size=33)
    assert sentence == "multiples cannot take images of 33 px; use --size 64"
    assert len(render(Model("multiples", "none", nets.Multiples()), "conv:1", size=64)) == 1


def test_one_failing_objective_leaves_the_others(nets):
    result = render(Model("exploding", "none", nets.Exploding()), ["root:1", "root:0"])
    assert result.targets == ["root:0"]
    assert len(result.failures) == 1
    assert "the objective root:1 became nan at step 1" in result.failures[0]
    assert result.objective.isfinite().all()


def test_nothing_but_failing_objectives_is_an_error(nets):
    assert "root:1 became nan" in refused(Model("exploding", "none", nets.Exploding()), "root:1")


def test_an_image_that_stays_grey_says_so(nets):
    class Dead(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.act = torch.nn.ReLU()

        def forward(self, x):
            return self.act(x - 100)

    plain = dataclasses.replace(RECIPES["default"], redirect=0)
    for recipe, fate in ((plain, "stayed grey"), (RECIPES["default"], "never woke")):
        result = render(Model("dead", "none", Dead()), "act:0", recipe=recipe)
        assert len(result.notes) == 1
        assert f"act:0 {fate}: its gradient died" in result.notes[0]


def test_a_bug_in_the_network_is_named_with_its_place(nets):
    with pytest.raises(FvfastError, match=r"a bug of its own \(sketch_nets.py, line \d+\)") as caught:
        render(Model("buggy", "none", nets.Buggy()), "conv:1")
    assert isinstance(caught.value.__cause__, LookupError)


def test_the_limits_of_a_canvas():
    assert (rendering.SMALLEST, rendering.LARGEST) == (16, 1024)
