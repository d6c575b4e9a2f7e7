"""What a label writes means the same when it is read again, whatever classes, layers and files are called."""

import random
import shlex
import sys

import pytest
import torch
from PIL import Image
from torch import nn

import fvfast
from fvfast import objectives as o
from fvfast import selection, spelling, targets, tracing
from fvfast.errors import FvfastError
from fvfast.expressions import Context
from fvfast.layers import Layer
from fvfast.models import Model

PIECES = [
    "3", "10", "-", "*", "@", ",", ":", " + ", " * ", " - ", "(", ")", '"', "'", " ", "centre", "cls",
    "caricature(a, b)", "é", "e\u0301", "a", "b", "logits", "direction", "l1", " (made in Python)", "\\", "\n",
    "\udc80", "٣",
]  # fmt: skip

CLASSES = [
    "0", "10", "3-7", "3,7", "1@2,3", "2@centre", "centre", "a * b", "a + b", "3 - 4", "crane, bird", " edge ", "",
    "x:y",    "caricature(a, b)", '"quoted"', "'tis", "jack-o'-lantern", "logits:3", "(a)", "twice", "twice",
    "caf\u00e9", "cafe\u0301",    "two\nlines", "direction", "end (made in Python)", "٣", "\udc80", "1e5", "-1",
]  # fmt: skip

LAYERS = [
    "a:b", "x * y", "x + y", "x - y", "a,b", "1@2", "caricature(a, b)", "(odd", "odd)", '"q"', "'q", " ", "2", "l1",
    "blur",    "deep, guided", "diversity(a)", "end (made in Python)", "0.5 * a",
]  # fmt: skip


def network(names, classes):
    """A model with layers of these names, and its layers: 50 channels, tokens of a class token and 7 x 7 patches."""
    module = nn.Module()
    for name in names:
        module._modules[name] = nn.Identity()
    found = {name: Layer(name, "x", 50, 7, 7, 50, channels_last=False, calls=1) for name in names}
    found["logits"] = Layer("logits", "x", max(1, len(classes)), None, None, None, channels_last=False, calls=1)
    return Model("odd", "none", module, classes=tuple(classes)), found


@pytest.fixture(scope="module")
def odd():
    return network(LAYERS, CLASSES)


def read(odd, text):
    model, found = odd
    return targets.parse(text, found, model)


@pytest.mark.parametrize("index", range(len(CLASSES)))
def test_a_class_of_any_name_reads_back(odd, index):
    text = targets.label(o.logit(index), odd[0])
    assert read(odd, text) == [o.logit(index)]
    if CLASSES[index] not in ("", "twice"):
        assert read(odd, f"logits:{spelling.quoted(CLASSES[index])}") == [o.logit(index)]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_of_any_name_reads_back(odd, layer):
    for objective in (o.channel(layer, 3), o.layer(layer), o.neuron(layer, 2), o.neuron(layer, 2, 1, 4)):
        assert read(odd, targets.label(objective, odd[0])) == [objective]
        mixed = o.mixture((0.5, objective), (0.25, o.mixture((3, objective), (-1e-7, o.layer("2")))))
        (again,) = read(odd, targets.label(mixed, odd[0]))
        assert terms(again) == terms(mixed)


def terms(objective):
    """A mixture as numbers and terms."""
    parts = getattr(objective, "parts", None)
    return objective if parts is None else [(weight, terms(part)) for weight, part in parts]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("10", 'logits:"10"'),
        ("3-7", 'logits:"3-7"'),
        ("crane, bird", "logits:crane, bird"),
        ("a + b", "logits:a + b"),
        ("jack-o'-lantern", "logits:jack-o'-lantern"),
        ("x:y", "logits:x:y"),
        ("twice", "logits:20"),
    ],
)
def test_quotes_stand_only_where_they_are_needed(odd, name, written):
    assert targets.label(o.logit(CLASSES.index(name)), odd[0]) == written


@pytest.mark.parametrize("text", ["logits:3", "logits:10", "logits:0"])
def test_a_bare_number_is_an_index(odd, text):
    assert read(odd, text) == [o.logit(int(text.partition(":")[2]))]


@pytest.mark.parametrize(
    ("text", "name"), [("logits:'10'", "10"), ('logits:"3-7"', "3-7"), ("logits:'a * b'", "a * b")]
)
def test_either_quotes_will_do(odd, text, name):
    assert read(odd, text) == [o.logit(CLASSES.index(name))]


def test_composed_and_decomposed_letters_are_one_where_no_class_tells_them_apart():
    model, found = network([], ["cafe\u0301", "tea"])
    assert targets.parse("logits:caf\u00e9", found, model) == [o.logit(0)]


def test_random_names_read_back_or_are_refused():
    chance = random.Random(0)

    def name():
        return "".join(chance.choices(PIECES, k=chance.randint(1, 5)))

    for _ in range(100):
        names, classes = list({name() for _ in range(3)} - {"logits"}) or ["q"], [name() for _ in range(5)]
        model, found = network(names, classes)
        for i in range(5):
            assert targets.parse(targets.label(o.logit(i), model), found, model) == [o.logit(i)]
        a, b, c = (chance.choice(names) for _ in range(3))
        w, v = chance.uniform(-9, 9), 10 ** chance.uniform(-9, 9)
        simple = [o.channel(a, 1), o.layer(b), o.neuron(c, 2, chance.choice([None, 3]), 4), o.neuron(c, 2, token="cls")]
        mixed = [o.mixture((w, o.layer(a)), (v, o.neuron(b, 1, 2, 3))), o.mixture((v, o.mixture((w, o.layer(b)))))]
        for objective in [*simple, *mixed]:
            (again,) = targets.parse(targets.label(objective, model), found, model)
            assert terms(again) == terms(objective)
        for objective in (
            o.layer(a) + o.layer(b), o.layer(a) * 2, 1 - o.layer(b), o.layer(a) / o.layer(b), o.layer(a) * o.layer(b),
            o.mixture((w, o.layer(a) + o.layer(b)), (v, o.layer(c))), o.l1(), -o.l1(), o.blur() * 2, o.diversity(a),
            o.direction(a, [1.0]), o.direction("logits", [1.0]), 2 * (o.layer(a) - o.layer(b)),
        ):  # fmt: skip
            with pytest.raises(FvfastError):
                targets.parse(targets.label(objective, model), found, model)


A, B = (torch.arange(32, dtype=torch.float32).reshape(2, 4, 2, 2) * scale for scale in (0.3, -0.7))


@pytest.mark.parametrize(
    "objective",
    [
        2 * o.channel("a", 1),
        -o.channel("a", 1),
        0.1234567891 * o.channel("a", 1),
        0.5 * (2 * o.channel("b", 1)),
        o.mixture((0.5, o.mixture((0.5, o.channel("a", 1)), (0.5, o.channel("b", 2)))), (0.5, o.channel("a", 0))),
        o.mixture((1 / 3, 2 * o.channel("a", 1)), (2 / 3, o.neuron("b", 2, 1, 0))),
        2 * o.mixture((0.5, o.channel("a", 1)), (0.25, o.channel("b", 2))),
        o.mixture((1e-7, o.channel("a", 1)), (1e20, o.channel("b", 2)), (-3.0000001, o.layer("a"))),
    ],
    ids=lambda one: one.label,
)
def test_a_sum_that_can_be_read_has_the_same_value(objective):
    found = {n: Layer(n, "x", 4, 2, 2, None, channels_last=False, calls=1) for n in ("a", "b")}
    model = Model("two", "none", nn.Module())
    (again,) = targets.parse(targets.label(objective, model), found, model)
    context = Context({"a": A, "b": B}, layers=found)
    assert torch.equal(again.value(context), objective.value(context))


# Pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [
        "2, photo.png",
        "a, b.png",
        "photo (1).png",
        "photo).png",
        "'tis.png",
        '"x".png',
        "a * b.png",
        "1e5, x.png",
        " x.png",
    ],
)
def test_a_picture_of_any_name_reads_back(tiny, tmp_path, file):
    Image.new("RGB", (40, 40), (200, 30, 90)).save(tmp_path / file)
    found = tracing.trace(tiny.module.eval(), 32)
    for objective in (
        o.caricature("deep", file, 1 / 3),
        o.caricature("deep", file),
        o.inversion("deep", file),
        o.accentuation(o.neuron("deep", 1, 2, 3), "stem", file, 1e-7),
        o.accentuation(o.mixture((0.1, o.caricature("stem", file)), (1, o.layer("deep"))), "stem", file),
    ):
        text = targets.label(objective, tiny)
        (again,) = targets.parse(text, found, tiny)
        assert targets.label(again, tiny) == text
        assert getattr(again, "power", 0) == getattr(objective, "power", 0)
        assert getattr(again, "weight", 0) == getattr(objective, "weight", 0)
        assert [p.name for p in again.pictures()] == [p.name for p in objective.pictures()]
        (nested,) = targets.parse(targets.label(o.mixture((2, objective)), tiny), found, tiny)
        assert [p.name for p in nested.pictures()] == [p.name for p in objective.pictures()]


# What people see -------------------------------------------------------------------------------------------


def test_a_label_of_the_command_line_survives_a_shell_and_a_png(cli, nets, tmp_path):
    model = fvfast.load(nets.Tiny(), classes=tuple(sorted(str(i) for i in range(10, 0, -1))))
    made = fvfast.render(model, o.logit(1), size=32, steps=2)
    assert made.targets == ['logits:"10"']
    again = fvfast.render(model, shlex.split(shlex.join(made.targets))[0], size=32, steps=2)
    assert torch.equal(made.images, again.images)
    assert made.specs == again.specs


@pytest.mark.parametrize("target", ["0.123456789 * deep:1 + 0.5 * stem:2", "deep:3@centre,5", "'deep':2"])
def test_a_png_gives_its_own_bytes_again(cli, tmp_path, target):
    code, _, err = cli("render", "sketch_nets:tiny", target, "--size", 32, "--steps", 2, "--out", "first")
    assert code == 0, err
    (first,) = (tmp_path / "first").glob("*.png")
    assert cli("render", "--from", first, "--out", "second")[0] == 0
    (second,) = (tmp_path / "second").glob("*.png")
    assert first.read_bytes() == second.read_bytes()


@pytest.fixture
def oddly_named(tmp_path, monkeypatch):
    """The name of a model whose layers are called as nobody would."""
    (tmp_path / "oddly.py").write_text(
        "from torch import nn\n"
        "class Odd(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        names = ('[/x]', 'a:b*c', ':dog:', '-n', 'aXc')\n"
        "        self.m = nn.ModuleDict({name: nn.Conv2d(3, 3, 3, padding=1) for name in names})\n"
        "    def forward(self, x):\n"
        "        for one in self.m.values():\n"
        "            x = one(x)\n"
        "        return x.mean((2, 3))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "oddly:Odd"
    sys.modules.pop("oddly", None)


@pytest.mark.parametrize(
    "target", ["m.[/x]:1", '"m.a:b*c":2@centre', '"m.:dog:"', "0.5 * m.-n + 0.3333333333 * m.[/x]"]
)
def test_the_table_prints_what_renders_the_same_again(cli, oddly_named, target):
    code, out, err = cli("render", oddly_named, target, "--size", 32, "--steps", 1, "--out", "one")
    assert code == 0, err
    assert out.splitlines()[1].startswith(target[:20])


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["m.a:b*c"], ["m.a:b*c"]),
        (['"m.a:b*c"'], ["m.a:b*c"]),
        (["'m.:dog:'", "m.-n"], ["m.:dog:", "m.-n"]),
        (["m.a*c"], ["m.a:b*c", "m.aXc"]),
        (["m.a**c"], ["m.a:b*c", "m.aXc"]),
    ],
)
def test_an_atlas_takes_layers_by_the_same_names(oddly_named, names, chosen):
    model = fvfast.load(oddly_named)
    found = tracing.trace(model.module.eval(), 32)
    features = selection.features(model.module, found, model.name, names, "0")
    assert features == [o.channel(name, 0) for name in chosen]


@pytest.mark.parametrize(
    ("name", "channels", "sentence"),
    [
        ('"m.a:b*c":2', None, 'is a target, not a layer: write "m.a:b\\*c" --channels 2'),
        ("m.aXc", "9" * 5000, "the number of 5000 digits of --channels is larger than"),
        ("m.aXc", "9-2", "the range 9-2 of --channels runs backwards; write 2-9"),
        ("m.aXc", "0-999999999", "m.aXc has channels 0-2, not 999999999"),
    ],
)
def test_an_atlas_of_what_is_not_there_is_refused(oddly_named, name, channels, sentence):
    model = fvfast.load(oddly_named)
    found = tracing.trace(model.module.eval(), 32)
    with pytest.raises(FvfastError, match=sentence):
        selection.features(model.module, found, model.name, [name], channels)


@pytest.mark.parametrize(
    "text",
    [
        "deep:" + "9" * 5000,
        "deep:0-" + "9" * 5000,
        "deep:1@" + "9" * 5000 + ",0",
        "deep:1@token" + "9" * 5000,
        "1 * " * 10_000 + "deep",
        "(" * 3000 + "deep" + ")" * 3000,
        "accentuation(" * 300 + "deep" + ", stem, x.png)" * 300,
        "9" * 5000 + " * deep",
        "deep:0-999999999",
        "deep - stem",
        "deep + stem",
        "deep * 2",
        "deep:3 - l2",
        "total_variation",
        "diversity(deep)",
        "deep, guided",
        "x" * 100_000,
        'logits:"\\q"',
        '"deep',
        '""',
    ],
    ids=lambda text: text[:20],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(tiny, text):
    found = tracing.trace(tiny.module.eval(), 32)
    with pytest.raises(FvfastError) as caught:
        targets.parse(text, found, tiny)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_layer_that_needs_quotes_is_told_of(odd):
    with pytest.raises(FvfastError, match="the layer 'a:b' needs quotes, \"a:b\":3"):
        read(odd, "a:b:3")


def test_an_objective_of_ones_own_never_reads_as_another(odd):
    class Mine(o.Channel):
        @property
        def label(self):
            return "l1:3"

    text = targets.label(Mine("l1", 5), odd[0])
    with pytest.raises(FvfastError, match="was made in Python"):
        read(odd, text)
