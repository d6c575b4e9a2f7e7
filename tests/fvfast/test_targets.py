import pytest

from fvfast import targets, tracing
from fvfast.errors import FvfastError
from fvfast.layers import Layer
from fvfast.models import Model, imagenet_classes
from fvfast.objectives import Channel, Neuron, WholeLayer


@pytest.fixture
def parse(tiny):
    found = tracing.trace(tiny.module.eval(), 32)
    return lambda text: targets.parse(text, found, tiny)


@pytest.fixture
def thousand(tiny):
    """A model with ImageNet's classes, and its layers."""
    model = Model("thousand", "none", tiny.module, classes=imagenet_classes())
    return model, {"logits": Layer("logits", "Linear", 1000, None, None, None, False, 1)}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("deep", [WholeLayer("deep")]),
        ("deep:3", [Channel("deep", 3)]),
        ("deep:0", [Channel("deep", 0)]),
        ("deep:11", [Channel("deep", 11)]),
        ("deep:3,7,9-11", [Channel("deep", c) for c in (3, 7, 9, 10, 11)]),
        ("deep:2-2", [Channel("deep", 2)]),
        ("deep:5,1-6,5", [Channel("deep", c) for c in (5, 1, 2, 3, 4, 6)]),
        ("deep:4@15,0", [Neuron("deep", 4, 15, 0)]),
        ("deep:4@centre", [Neuron("deep", 4)]),
        ("logits:9", [Channel("logits", 9)]),
        ("logits:bee", [Channel("logits", 1)]),
        ("logits:RED_FOX", [Channel("logits", 4)]),
        ("logits: bell-pepper ", [Channel("logits", 7)]),
        ("logits:0-2", [Channel("logits", c) for c in (0, 1, 2)]),
    ],
)
def test_a_written_target_means_its_objectives(parse, text, meant):
    assert parse(text) == meant


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is no target; write LAYER:CHANNEL, LAYER:3,7,10-19, LAYER:CHANNEL@Y,X, LAYER, or logits:NAME"),
        (":3", "':3' is no target"),
        ("deep:", "'deep:' is no target"),
        ("deep:x", "'deep:x' is no target"),
        ("deep:-1", "'deep:-1' is no target"),
        ("deep:1.5", "'deep:1.5' is no target"),
        ("deep:1,", "'deep:1,' is no target"),
        ("deep:1:2", "'deep:1:2' is no target"),
        ("deep:1@2", "'deep:1@2' is no target"),
        ("deep:1@2,3,4", "'deep:1@2,3,4' is no target"),
        ("logits:1@2", "'logits:1@2' is no target"),
        ("depe:3", "tiny has no layer 'depe' with a tensor output (did you mean deep"),
        ("deep:12", "deep has channels 0-11, not 12"),
        ("deep:0-999999999999", "deep has channels 0-11, not 999999999999"),
        ("deep:9-2", "the range 9-2 in deep:9-2 runs backwards; write 2-9"),
        ("deep:12@0,0", "deep has channels 0-11, not 12"),
        ("deep:1@16,0", "'deep:1@16,0' lies outside deep, which is 16x16 at this size (Y 0-15, X 0-15)"),
        ("deep:1@0,16", "lies outside deep"),
        ("logits:10", "logits has channels 0-9, not 10"),
        ("logits:2@0,0", "logits has no grid of positions: leave out '@' in 'logits:2@0,0'"),
        ("logits:bea", "tiny has no class 'bea' (did you mean bee"),
        ("logits:crane", "'crane' names 2 classes; write logits:2 or logits:3"),
        ("logits:ROBIN", "'ROBIN' names 2 classes; write logits:5 or logits:6"),
    ],
)
def test_a_bad_target_is_refused_with_a_sentence(parse, text, sentence):
    with pytest.raises(FvfastError) as caught:
        parse(text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_exact_spelling_decides_between_names_alike(parse):
    assert parse("logits:Robin") == [Channel("logits", 5)]
    assert parse("logits:robin") == [Channel("logits", 6)]


def test_every_imagenet_class_is_written_so_that_it_reads_back(thousand):
    model, found = thousand
    written = [targets.label(Channel("logits", i), model) for i in range(1000)]
    assert [targets.parse(text, found, model) for text in written] == [[Channel("logits", i)] for i in range(1000)]
    assert written[985] == "logits:daisy"
    # Only names that stand for two classes (crane and maillot in some versions of the metadata) go by number.
    shared = [i for i, name in enumerate(imagenet_classes()) if imagenet_classes().count(name) > 1]
    assert [i for i, text in enumerate(written) if text.removeprefix("logits:").isdigit()] == shared
    assert targets.parse("logits:Cardigan", found, model) == [Channel("logits", 264)]  # the dog
    assert targets.parse("logits:cardigan", found, model) == [Channel("logits", 474)]  # the garment


@pytest.mark.parametrize("text", ["deep", "deep:3", "deep:4@15,0", "deep:4@centre", "logits:bee", "logits:3"])
def test_a_label_reads_back_as_its_target(parse, tiny, text):
    assert [targets.label(objective, tiny) for objective in parse(text)] == [text]


def test_a_model_without_class_names_wants_an_index(parse, tiny):
    nameless = Model("nameless", "none", tiny.module)
    with pytest.raises(FvfastError, match="nameless does not name its classes; write logits:INDEX instead of 'daisy'"):
        targets.class_index("daisy", nameless)
    assert targets.label(Channel("logits", 3), nameless) == "logits:3"


def test_more_logits_than_names_go_by_number(tiny):
    assert targets.label(Channel("logits", 10), tiny) == "logits:10"


@pytest.mark.bundled
def test_the_showcase_names_what_the_bundled_network_has():
    from fvfast import models

    bundled = models.load("efficientnet_lite0", "none")
    found = tracing.trace(bundled.module.eval(), 64)
    objectives = [o for text in targets.SHOWCASE for o in targets.parse(text, found, bundled)]
    assert len(objectives) == 8
    assert sum(o.layers == {"logits"} for o in objectives) >= 3
    assert len({o.layers for o in objectives}) >= 5  # several depths
