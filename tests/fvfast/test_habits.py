"""Networks that do more than compute: what is rendered is what they do, and says so where that cannot be."""

# Networks as people write them: what they keep on themselves has any type.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import copy
import functools

import by_hand
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fvfast
from fvfast.habits import Dice, drawing, looking, seeded

SIZE = 32
STEPS = 3


def build(forward, **parts):
    """A network with this forward pass, and convolutions `first` (3 to 8) and `out` (8 to 8)."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            for name, value in parts.items():
                setattr(self, name, copy.deepcopy(value))

    Net.forward = forward
    return Net().eval()


render = functools.partial(fvfast.render, size=SIZE, steps=STEPS)


def check(net, targets=("out:0", "out:3", "out:5")):
    """That pictures are true, and the same alone and together."""
    given = copy.deepcopy(net)
    made = render(net, list(targets))
    for image, target, value in zip(made.images, targets, made.objective.tolist(), strict=True):
        layer, number = target.split(":")
        by = by_hand.channel(copy.deepcopy(given), layer, image[None], int(number))
        assert value == pytest.approx(by, rel=1e-3, abs=1e-5), target
    assert by_hand.alone_and_together(render, given, list(targets)) == 0
    return made


# Decisions ---------------------------------------------------------------------------------------------------


def tail(self, x):
    return self.out(torch.relu(self.first(x)))


def by_max(self, x):
    return tail(self, x / 255 if x.max() > 3 else x)  # never, for pictures in 0..1


def by_bool(self, x):
    return tail(self, x / 255 if bool((x > 3).any()) else x)


def by_list(self, x):
    return tail(self, x / 255 if max(x.flatten().tolist()) > 3 else x)


def by_numpy(self, x):
    return tail(self, x / 255 if x.detach().numpy().max() > 3 else x)


def by_asarray(self, x):
    return tail(self, x / 255 if np.asarray(x.detach()).max() > 3 else x)


def by_count(self, x):
    return tail(self, x / 255 if len((x > 3).nonzero()) > 0 else x)


def by_mask(self, x):
    return tail(self, x / 255 if x[x > 3].numel() > 0 else x)


def by_closeness(self, x):
    return tail(self, x if torch.allclose(x.clamp(max=3), x) else x / 255)


def by_equality(self, x):
    return tail(self, x if torch.equal(x.clamp(max=3), x) else x / 255)


def by_data(self, x):
    return tail(self, x / 255 if x.data.max() > 3 else x)


def by_text(self, x):
    return tail(self, x if "False" in str(x.max() > 3) else x / 255)


def by_loop(self, x):
    while x.abs().max() > 3:
        x = x / 2
    return tail(self, x)


def by_exit(self, x):
    found = self.out(torch.relu(self.first(x)))
    return self.out(found) if found.max() > 50 else found


DECISIONS = [by_max, by_bool, by_list, by_numpy, by_asarray, by_count, by_mask]
DECISIONS += [by_closeness, by_equality, by_data, by_text, by_loop, by_exit]


@pytest.mark.parametrize("forward", DECISIONS, ids=lambda f: f.__name__)
def test_a_decision_is_made_anew_for_every_picture(forward):
    made = check(build(forward))
    assert made.form == "modules"
    assert "looks at values" in made.form_why


def test_a_decision_goes_the_way_of_what_is_seen():
    """A noise that decides otherwise than pictures do: what is rendered is what pictures bring about."""
    asks, plain = (render(build(forward), "out:3") for forward in (by_max, tail))
    assert plain.form == "fused"
    torch.testing.assert_close(asks.images, plain.images, rtol=0, atol=1e-4)


def test_what_weights_decide_may_be_recorded():
    def forward(self, x):
        return tail(self, x * 2 if self.gate.item() > 0 else x)

    assert check(build(forward, gate=nn.Parameter(torch.ones(())))).form == "fused"


def test_a_view_that_goes_another_way_without_being_looked_at():
    """`torch.where` is recorded; it has to hold for the pictures too."""

    def forward(self, x):
        return tail(self, torch.where(x.amax((1, 2, 3), keepdim=True) > 3, x / 255, x))

    assert check(build(forward)).form == "fused"


@pytest.mark.parametrize(
    ("look", "looks"),
    [
        (lambda x: x + 1, False),
        (lambda x: x[:, torch.tensor([0, 1])], False),
        (lambda x: x.shape[0] > 1, False),
        (lambda x: bool(x.sum()), True),
        (lambda x: x.numpy(), True),
        (lambda x: [float(v) for v in x[0, 0, 0]], True),
        (lambda x: x.unique(), True),
        (lambda x: repr(x), True),
    ],
)
def test_looking_is_noticed(look, looks):
    with looking() as looked:
        look(torch.rand(1, 3, 4, 4))
    assert looked() == looks


# State -------------------------------------------------------------------------------------------------------

random = torch.rand  # what draws is run as modules, as attention is


def kept_on_itself(self, x):
    self.kept = self.first(x)
    return self.out(torch.relu(self.kept) + 0 * random(()) + self.kept)


def stacked(self, x):
    self.stack.append(self.first(x))
    found = torch.relu(self.stack[-1]) + 0 * random(())
    return self.out(found + self.stack.pop())


def queued(self, x):
    """Cut short behind `out`, this would leave one more in the queue with every pass."""
    self.stack.append(self.first(x))
    found = self.out(torch.relu(self.stack[0]) + 0 * random(()))
    self.stack.pop()
    return found


def on_the_class(self, x):
    type(self).shared["skip"] = self.first(x)
    return self.out(torch.relu(type(self).shared["skip"]) + 0 * random(()) + type(self).shared["skip"])


OUTSIDE = {}


def outside_of_it(self, x):
    OUTSIDE["skip"] = self.first(x)
    return self.out(torch.relu(OUTSIDE["skip"]) + 0 * random(()) + OUTSIDE["skip"])


def buffered(self, x):
    self.buffer.resize_(x.shape).copy_(x.detach())
    return self.out(torch.relu(self.first(x + 0 * self.buffer.mean())) + 0 * random(()) + self.buffer.mean())


STATE = [kept_on_itself, stacked, queued, on_the_class, outside_of_it, buffered]


@pytest.mark.parametrize("forward", STATE, ids=lambda f: f.__name__)
def test_state_does_not_cross_between_images(forward, monkeypatch):
    monkeypatch.setattr("fvfast.session.crew_size", lambda threads: (3, 1))
    net = build(forward, stack=[], buffer=nn.Buffer(torch.zeros(0)))
    type(net).shared = {}
    check(net)


def test_state_in_hooks_does_not_cross(monkeypatch):
    monkeypatch.setattr("fvfast.session.crew_size", lambda threads: (3, 1))
    kept = {}

    def forward(self, x):
        return self.out(torch.relu(self.first(x)) + 0 * random(()) + kept["skip"])

    net = build(forward)
    net.first.register_forward_hook(lambda m, i, o: kept.__setitem__("skip", o))
    made = render(net, ["out:0", "out:1", "out:2"])
    for number, (image, value) in enumerate(zip(made.images, made.objective.tolist(), strict=True)):
        assert value == pytest.approx(by_hand.channel(net, "out", image[None], number), rel=1e-3, abs=1e-5)
        assert render(net, f"out:{number}").images[0].equal(image)


def counted(self, x):
    self.passes = self.passes + 1
    return tail(self, x * (2 if self.passes > 3 else 1))


def averaged(self, x):
    self.mean = 0.5 * self.mean + 0.5 * x.detach().mean()
    return tail(self, x - self.mean)


def previous(self, x):
    before, self.kept = self.kept, x.detach()
    return tail(self, x if before is None else x + before.mean())


@pytest.mark.parametrize("forward", [counted, averaged, previous], ids=lambda f: f.__name__)
def test_a_memory_begins_anew_with_every_image_and_is_named(forward):
    made = check(build(forward, passes=0, mean=torch.zeros(()), kept=None))
    assert made.form == "modules"
    assert any("remembers earlier passes" in note for note in made.notes)


def noisy(self, x):
    return tail(self, x + 0.1 * torch.randn_like(x))


def dropped(self, x):
    return self.out(F.dropout(torch.relu(self.first(x)), 0.3, training=True))


def numbered(self, x):
    return tail(self, x + 0.1 * float(np.random.rand()))


@pytest.mark.parametrize("forward", [noisy, dropped, numbered], ids=lambda f: f.__name__)
def test_random_numbers_are_each_images_own(forward, monkeypatch):
    monkeypatch.setattr("fvfast.session.crew_size", lambda threads: (3, 1))
    net = build(forward)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    made = render(net, ["out:0", "out:1", "out:2"])
    assert any("draws random numbers" in note for note in made.notes)
    assert by_hand.alone_and_together(render, net, ["out:0", "out:1", "out:2"]) == 0
    assert torch.get_rng_state().equal(before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_the_callers_random_numbers_stay():
    nets = build(noisy), build(numbered)
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    for net in nets:
        render(net, "out:1")
    assert torch.rand(3).equal(expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


def test_dice_give_everyone_a_sequence_of_their_own():
    mine, other = Dice(1), Dice(2)
    found = []
    for dice in (mine, other, mine):
        with dice():
            found.append(torch.rand(2))
    with seeded(1):
        expected = torch.rand(4)
    assert torch.cat([found[0], found[2]]).equal(expected)
    assert not found[1].equal(found[0])
    with drawing() as drew:
        assert not drew()
        np.random.rand()
        assert drew()


# Batches -----------------------------------------------------------------------------------------------------


def over_the_batch(self, x):
    return tail(self, x / x.abs().max())


def one_row(self, x):
    return tail(self, x.reshape(1, 3, SIZE, SIZE))


@pytest.mark.parametrize("forward", [over_the_batch, one_row], ids=lambda f: f.__name__)
def test_a_network_that_mixes_images_gets_one_at_a_time(forward):
    net, said = build(forward), []
    together = render(net, ["out:0-2"], batch=3, notify=said.append)
    assert len(said) == 1
    assert "mixes the images of a batch" in said[0]
    for number, image in enumerate(together.images):
        assert render(net, f"out:{number}").images[0].equal(image)


def test_statistics_of_the_batch_mix_images():
    net = build(lambda self, x: self.out(self.norm(self.first(x))), norm=nn.BatchNorm2d(8, track_running_stats=False))
    together = render(net, ["out:0-2"], batch=3)
    assert render(net, "out:1").images[0].equal(together.images[1])


# Effects in place --------------------------------------------------------------------------------------------


def result_dropped(self, x):
    y = self.first(x)
    self.act(y)
    return self.out(y)


def shared_by_a_view(self, x):
    y = self.first(x)
    self.act(y[:, :4])
    return self.out(y)


def skip_changed(self, x):
    y = self.first(x)
    return self.out(self.act(y) + y)  # y is what the activation made of it


def kept_then_changed(self, x):
    y = self.first(x)
    self.kept = y
    z = self.act(y)
    return self.out(z + self.kept)


def image_changed(self, x):
    self.act(x)
    return self.out(torch.relu(self.first(x)))


IN_PLACE = [result_dropped, shared_by_a_view, skip_changed, kept_then_changed, image_changed]


@pytest.mark.parametrize("forward", IN_PLACE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.Hardtanh(inplace=True), nn.SiLU(inplace=True)], ids=str)
def test_what_a_module_does_in_place_stays_done(forward, act):
    net = build(forward, act=act)
    made = render(net, ["out:0", "out:3"])
    for image, number, value in zip(made.images, (0, 3), made.objective.tolist(), strict=True):
        assert value == pytest.approx(by_hand.channel(net, "out", image[None].clone(), number), rel=1e-3, abs=1e-5)
        # The gradient too: it is that of a step by hand.
    assert made.history[0, 0].isfinite()
    assert by_hand.alone_and_together(render, net, ["out:0", "out:3"]) == 0


def test_the_steps_follow_the_network_as_given():
    """The objective of the first view is that of the network with its effects, not of one without."""
    net = build(result_dropped, act=nn.ReLU(inplace=True))
    still = fvfast.Recipe("still", steps=2, sd=1.0)
    made = render(net, "out:3", recipe=still, steps=2)
    assert float(made.history[0, 0]) == pytest.approx(float(made.objective_start), rel=1e-3)


@pytest.mark.parametrize("forward", [queued, stacked, kept_on_itself], ids=lambda f: f.__name__)
def test_redirected_steps_have_a_network_of_their_own_too(forward, monkeypatch):
    """Where every gradient is dead at first, the modules run whatever the form: side by side, and truthfully."""
    monkeypatch.setattr("fvfast.session.crew_size", lambda threads: (3, 1))

    def dead(self, x):
        return F.relu(forward(self, x) - 2)

    net = build(dead, stack=[])
    made = render(net, ["logits:0", "logits:1", "logits:2"])
    for number, image in enumerate(made.images):
        assert render(copy.deepcopy(net), f"logits:{number}").images[0].equal(image)
