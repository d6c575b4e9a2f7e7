"""Which form of a network is taken, with a stand-in for the clock; and the forms against the modules, on a CPU."""

import json

import pytest
import torch
from torch import nn

from fvfast import choosing, tracing
from fvfast import objectives as o
from fvfast.choosing import WORTH_COMPILING, WORTH_MEASURING, Chooser, quickest
from fvfast.compiled import compiled
from fvfast.errors import FvfastError
from fvfast.forms import FORMS, Form
from fvfast.layers import Tap
from fvfast.optimize import OutOfMemory
from fvfast.prepare import prepare
from fvfast.pristine import pristine
from fvfast.recorded import recorded
from fvfast.remembered import Remembered, folder
from fvfast.rendering import check_network
from fvfast.tape import Refused

SIZE = 24
SHORT, LONG = 100, 10**9  # steps


class Net(nn.Module):
    """What recorded networks are made of: padding, clamps, branches, pooling, normalisation, a depthwise layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 5, stride=1, padding=2, bias=False)
        self.act, self.six = nn.ReLU(), nn.ReLU6()
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.out = nn.Conv2d(12, 5, 3, stride=2, dilation=2, padding=1)

    def forward(self, x):
        x = self.act(self.norm(self.stem(nn.functional.pad(x, (0, 1, 0, 1)))))
        x = x + self.six(self.deep(x))
        x = self.pool(torch.cat([self.act(self.left(x)), self.right(x)], 1))
        return self.out(x)


def network(net=None, names=("out",), dtype=torch.float32):
    """(the network made fast, a tap on the untouched one, a view)."""
    module = pristine(net or Net(), torch.device("cpu"))
    found = tracing.trace(module, SIZE)
    view = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).to(dtype)
    fast = prepare(module, found, names, SIZE, dtype)
    return fast, Tap(module, found, names), view.contiguous(memory_format=torch.channels_last)


def run_of(fast, names=("out",)):
    return lambda x: list(fast.tap(names)(x, names).values())


def looked(run, view):
    leaf = view.detach().requires_grad_()
    found = run(leaf)
    weights = [torch.randn(f.shape, generator=torch.Generator().manual_seed(2)) for f in found]
    return [f.detach() for f in found], torch.autograd.grad(found, leaf, weights)[0]


# The forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [recorded, lambda run, view: compiled(run, view, "aot_eager")])
@pytest.mark.parametrize("names", [("out",), ("left", "out")])
def test_a_form_has_the_values_and_the_gradient_of_the_modules(make, names):
    fast, _, view = network(names=names)
    run = run_of(fast, names)
    values, gradient = looked(run, view)
    found, mine = looked(make(run, view), view)
    for value, right in zip(found, values, strict=True):
        torch.testing.assert_close(value, right, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine, gradient, rtol=1e-5, atol=1e-5)
    assert mine.is_contiguous(memory_format=torch.channels_last)


def test_recording_computes_nothing_and_knows_other_images_than_the_one_it_saw():
    fast, _, view = network()
    run = run_of(fast)
    form = recorded(run, torch.full_like(view, float("nan")))
    torch.testing.assert_close(form(view), run(view), rtol=1e-5, atol=1e-5)


class Looking(Net):
    """Looks at a value on the host."""

    def forward(self, x):
        return super().forward(x) if float(x.detach().sum()) < 1e9 else x


def test_what_looks_at_values_is_not_recorded():
    fast, _, view = network(Looking())
    with pytest.raises(Refused, match="looks at values"):
        recorded(run_of(fast), view)


# The choice ------------------------------------------------------------------------------------------------


class Clock:
    """Stands where forms are timed: gives out `ms`, in the order in which forms are asked for."""

    def __init__(self, **ms):
        self.ms, self.asked = ms, []

    def __call__(self, run, view, tuned):
        name = list(self.ms)[len(self.asked)]
        self.asked.append(name)
        assert tuned == (name != "modules")
        if isinstance(self.ms[name], Exception):
            raise self.ms[name]
        return self.ms[name]


@pytest.fixture
def compiles(monkeypatch):
    """Compiles without a compiler, and counts how often."""
    asked = []

    def stand_in(run, view):
        asked.append(view.shape)
        return compiled(run, view, "eager")

    monkeypatch.setattr(choosing, "compiled", stand_in)
    return asked


def chooser(tmp_path, clock, wanted="auto", said=None, untouched=None):
    fast, plain, view = network()
    made = Chooser(
        wanted,
        untouched or plain,
        lambda: "net 0123",
        (said if said is not None else []).append,
        Remembered(tmp_path / "networks.json"),
        clock,
    )
    return lambda steps: made.choose(fast, view, ["out"], steps)


def test_the_fastest_form_is_measured_once_and_remembered(tmp_path, compiles):
    clock = Clock(modules=2.0, tuned=1.5, recorded=1.0)
    form = chooser(tmp_path, clock)(SHORT)
    assert (form.name, clock.asked, compiles) == ("recorded", ["modules", "tuned", "recorded"], [])
    assert form.why == "measured: modules 2 ms a pass, tuned 1.5 ms a pass, recorded 1 ms a pass"
    again = chooser(tmp_path, Clock())(SHORT)
    assert again.name == "recorded"
    assert again.why.startswith("remembered: ")
    ((key, entry),) = json.loads((tmp_path / "networks.json").read_text()).items()
    assert key.startswith(f"net 0123, out, 2x3x{SIZE}x{SIZE} float32, cpu, torch {torch.__version__}")
    assert entry["ms"] == {"modules": 2.0, "tuned": 1.5, "recorded": 1.0}


def test_a_render_of_a_few_steps_is_not_measured_but_takes_what_is_known(tmp_path):
    few = WORTH_MEASURING - 1
    form = chooser(tmp_path, Clock())(few)
    assert (form.name, form.why) == ("modules", "too few steps to measure other forms")
    assert chooser(tmp_path, Clock(modules=2.0, tuned=1.5, recorded=1.0))(WORTH_MEASURING).name == "recorded"
    assert chooser(tmp_path, Clock())(few).name == "recorded"


def test_compiling_is_tried_where_the_render_is_long_enough_to_pay_for_it(tmp_path, compiles):
    enough = int(WORTH_COMPILING * 1000) + 1
    plain = {"modules": 1.0, "tuned": 1.1, "recorded": 1.2}
    assert chooser(tmp_path, Clock(**plain))(enough - 2).name == "modules"
    assert compiles == []
    form = chooser(tmp_path, Clock(compiled=0.5))(enough)  # what is known is not measured again
    assert form.name == "compiled"
    assert len(compiles) == 1
    assert chooser(tmp_path, Clock())(enough).name == "compiled"


def test_what_compiling_takes_counts():
    ms, seconds = {"modules": 1.0, "compiled": 0.8}, {"compiled": 60.0}
    assert quickest(ms, seconds, 100_000) == "modules"  # 100 s against 80 and 60
    assert quickest(ms, seconds, 1_000_000) == "compiled"


def test_a_difference_that_may_be_noise_does_not_decide():
    assert quickest({"modules": 1.0, "tuned": 0.98}, {}, 100) == "modules"
    assert quickest({"modules": 1.0, "tuned": 0.96, "recorded": 0.95}, {}, 100) == "tuned"


def test_a_form_that_fails_is_left_out_and_that_is_remembered(tmp_path):
    clock = Clock(modules=2.0, tuned=RuntimeError("no engine\nmore"), recorded=3.0)
    form = chooser(tmp_path, clock)(SHORT)
    assert form.name == "modules"
    (entry,) = json.loads((tmp_path / "networks.json").read_text()).values()
    assert entry["refused"] == {"tuned": "RuntimeError: no engine"}


def test_memory_that_runs_out_is_not_remembered_against_a_form(tmp_path):
    clock = Clock(modules=2.0, tuned=torch.OutOfMemoryError("CUDA out of memory"), recorded=3.0)
    chooser(tmp_path, clock)(SHORT)
    (entry,) = json.loads((tmp_path / "networks.json").read_text()).values()
    assert entry["refused"] == {}
    assert set(entry["ms"]) == {"modules", "recorded"}


def test_a_form_that_differs_from_the_network_is_refused(tmp_path, monkeypatch):
    def wrong(run, view):
        return lambda x: [2 * v for v in run(x)]

    monkeypatch.setattr(choosing, "recorded", wrong)
    form = chooser(tmp_path, Clock(modules=2.0, tuned=2.0))(SHORT)
    assert form.name == "modules"
    (entry,) = json.loads((tmp_path / "networks.json").read_text()).values()
    assert entry["refused"] == {"recorded": "its outputs are 1.0e+00 from the network's"}
    said = []
    form = chooser(tmp_path, Clock(), "recorded", said)(SHORT)
    assert form.name == "tuned"
    assert form.why == "recorded was asked for, but its outputs are 1.0e+00 from the network's"
    refusal = "its outputs are 1.0e+00 from the network's"
    assert said == [f"the network cannot run recorded ({refusal}): it runs as its own modules, tuned"]


def test_a_form_with_another_gradient_is_refused(tmp_path, monkeypatch):
    def wrong(run, view):
        return lambda x: run(x.detach() - (x - x.detach()))

    monkeypatch.setattr(choosing, "recorded", wrong)
    form = chooser(tmp_path, Clock(), "recorded")(SHORT)
    assert form.why == "recorded was asked for, but its gradient is 2.0e+00 from the modules'"


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_is_asked_for_is_taken_unmeasured(tmp_path, compiles, name):
    form = chooser(tmp_path, Clock(), name)(SHORT)
    assert (form.name, form.why) == (name, "asked for")
    assert (form.run is None) == (name in ("modules", "tuned"))
    assert not (tmp_path / "networks.json").exists()


def test_a_network_that_uses_randomness_keeps_its_modules(tmp_path):
    class Random(Net):
        def forward(self, x):
            return super().forward(x + 0 * torch.rand(()))

    fast, plain, view = network(Random())
    remembered = Remembered(tmp_path / "networks.json")
    made = Chooser("auto", plain, lambda: "", pytest.fail, remembered, Clock(modules=1.0, tuned=2.0))
    assert made.choose(fast, view, ["out"], LONG).name == "modules"
    (entry,) = json.loads((tmp_path / "networks.json").read_text()).values()
    assert entry["refused"] == dict.fromkeys(("recorded", "compiled"), "aten::rand draws random numbers, or may")


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '"text"', '{"a": 3}', "\0"])
def test_a_damaged_memory_is_an_empty_one(tmp_path, content):
    path = tmp_path / "deep" / "networks.json"
    path.parent.mkdir()
    path.write_text(content)
    remembered = Remembered(path)
    assert remembered.get("a") == {}
    remembered.put("b", {"x": 1})
    assert Remembered(path).get("b") == {"x": 1}


def test_a_memory_that_was_changed_is_measured_again(tmp_path):
    chooser(tmp_path, Clock(modules=2.0, tuned=1.5, recorded=1.0))(WORTH_MEASURING)
    path = tmp_path / "networks.json"
    (key,) = json.loads(path.read_text())
    for entry in ({"ms": [1]}, {"ms": {"modules": "fast", "other": 0.1}, "refused": 3}, []):
        path.write_text(json.dumps({key: entry}))
        clock = Clock(modules=1.0, tuned=2.0, recorded=3.0)
        assert chooser(tmp_path, clock)(WORTH_MEASURING).name == "modules"
        assert len(clock.asked) == 3


def test_a_memory_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    remembered = Remembered(tmp_path / "file" / "networks.json")
    remembered.put("a", {"x": 1})
    assert remembered.get("a") == {}


def test_the_memory_lies_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder() == tmp_path / "fvfast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == tmp_path / ".cache" / "fvfast"


@pytest.mark.parametrize(
    ("network", "device", "message"),
    [
        ("fast", "cuda", "unknown network form 'fast'; there are auto, modules, tuned, recorded, compiled"),
        ("compiled", "cpu", "--network compiled is for an NVIDIA GPU: leave it out with --device cpu"),
    ],
)
def test_forms_that_there_are_not(network, device, message):
    with pytest.raises(FvfastError) as caught:
        check_network(network, torch.device(device))
    assert str(caught.value) == message


# In a batch ------------------------------------------------------------------------------------------------


def test_each_kind_of_batch_has_its_form_chosen_once(tmp_path):
    from tests.fvfast.test_step import fourier_batch

    fast, plain, _ = network(names=("out", "stem"))
    asked = []

    class Asked(Chooser):
        def choose(self, fast, view, names, steps):
            asked.append((tuple(view.shape), names, steps))
            return Form("tuned")

    made = Asked("auto", plain, lambda: "", pytest.fail, Remembered(tmp_path / "n.json"), Clock())
    batches = [fourier_batch(2), fourier_batch(2, steps=6), fourier_batch(3)]
    for _ in range(2):
        made.choose_for(batches, fast, 1.5)
    assert asked == [((2, 3, 24, 24), ("out", "stem"), 21), ((3, 3, 24, 24), ("out", "stem"), 12)]
    assert fast.forms == dict.fromkeys([(("out", "stem"), 2), (("out", "stem"), 3)], Form("tuned"))


def test_memory_that_runs_out_for_the_modules_themselves_makes_batches_smaller(tmp_path):
    from tests.fvfast.test_step import fourier_batch

    fast, plain, _ = network(names=("out", "stem"))
    clock = Clock(modules=torch.OutOfMemoryError("CUDA out of memory"))
    made = Chooser("auto", plain, lambda: "", pytest.fail, Remembered(tmp_path / "n.json"), clock)
    batch = fourier_batch(2, steps=WORTH_MEASURING)
    with pytest.raises(OutOfMemory) as caught:
        made.choose_for([batch], fast)
    assert caught.value.batch is batch


# Layout and gradients --------------------------------------------------------------------------------------


def test_a_place_is_read_with_a_gradient_in_the_activations_own_layout():
    from fvfast.expressions import Context
    from fvfast.together import _Read

    maps = torch.randn(3, 5, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    index = torch.tensor([0, 1, 2]), torch.tensor([4, 0, 4])
    value = _Read.apply(maps, *index)
    right = torch.stack(
        [o.channel("maps", c).value(Context({"maps": maps[i : i + 1]})) for i, c in enumerate((4, 0, 4))]
    )
    torch.testing.assert_close(value.mean((1, 2)), right[:, 0])
    (mine,) = torch.autograd.grad(value.mean((1, 2)).sum(), maps)
    (plain,) = torch.autograd.grad(maps[index].mean((1, 2)).sum(), maps)
    assert mine.equal(plain)
    assert mine.is_contiguous(memory_format=torch.channels_last)
