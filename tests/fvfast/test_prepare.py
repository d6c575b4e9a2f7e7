import copy

import pytest
import torch
import torchvision
from torch import nn

from fvfast import lowering, tracing
from fvfast.errors import Fault
from fvfast.folding import FOLD_TOLERANCE
from fvfast.layers import UNFOLDED, Tap
from fvfast.prepare import prepare
from fvfast.pristine import pristine

CPU = torch.device("cpu")


def image(size, count=1):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def settled(nets, name):
    torch.manual_seed(0)
    if name == "small_densenet":
        return pristine(nets.settle(torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10)), CPU)
    options = {"init_weights": False} if name == "googlenet" else {}
    return pristine(nets.settle(getattr(torchvision.models, name)(weights=None, **options)), CPU)


def outputs(module, found, names, x):
    with Tap(module, found, names) as tap, torch.no_grad():
        return tap(x)


def norms(module):
    return sum(isinstance(child, nn.BatchNorm2d) for child in module.modules())


def relative(value, reference):
    return ((value - reference).norm() / reference.norm()).item()


def test_pristine_is_a_frozen_float32_copy_in_eval_mode(tiny):
    tiny.module.train().to(torch.bfloat16)
    copied = pristine(tiny.module, CPU)
    assert not any(child.training for child in copied.modules())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in copied.parameters())
    assert all(child.training for child in tiny.module.modules())
    assert all(p.dtype == torch.bfloat16 and p.requires_grad for p in tiny.module.parameters())


@pytest.mark.parametrize(
    ("name", "middle", "left"),
    [
        ("resnet18", "layer3.0", 0),
        ("googlenet", "inception4a", 2),  # of its auxiliary classifiers, which do not run
        ("mobilenet_v2", "features.7", 0),
        ("small_densenet", "features.denseblock2", None),  # its norms come before its convolutions: most must stay
    ],
)
def test_folding_keeps_the_outputs(nets, name, middle, left):
    net = settled(nets, name)
    found = tracing.trace(net, 64)
    wanted = [middle, "logits"]
    reference = outputs(net, found, wanted, image(64, 2))
    with prepare(net, found, wanted, 64, torch.float32) as fast, torch.no_grad():
        got = fast(image(64, 2))
        assert not fast.unfit
        if left is not None:
            assert norms(fast.folded.module) == left
        elif norms(net):
            assert 0 < norms(fast.folded.module) < norms(net)
    for layer in wanted:
        # Folding reorders roundings: 2e-7 a layer, amplified by up to 120 layers of random weights.
        assert relative(got[layer], reference[layer]) < 1e-4, layer


def test_the_original_stays_as_it_was(nets):
    net = pristine(nets.Tiny(), CPU)
    before = copy.deepcopy(net.state_dict())
    found = tracing.trace(net, 32)
    prepare(net, found, ["deep_act"], 32, torch.bfloat16)
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(before[key].equal(after[key]) for key in before)
    assert net.get_submodule("act").inplace is True
    assert not any(child._forward_hooks for child in net.modules())


def test_the_copy_is_frozen_out_of_place_and_channels_last(tiny):
    net = pristine(tiny.module, CPU)
    fast = prepare(net, tracing.trace(net, 32), ["deep_act"], 32, torch.bfloat16).folded.module
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in fast.parameters())
    assert not any(getattr(child, "inplace", False) for child in fast.modules())
    assert fast.get_parameter("deep.weight").is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("wanted", [["mix"], ["norm"], ["conv"], ["early"], ["early", "mix", "conv"]])
def test_a_convolution_that_is_also_used_elsewhere_stays_right(nets, wanted):
    net = pristine(nets.Shared(), CPU)
    found = tracing.trace(net, 16)
    reference = outputs(net, found, wanted, image(16))
    with prepare(net, found, wanted, 16, torch.float32) as fast, torch.no_grad():
        for name in wanted:
            got = fast(image(16), [name])[name]
            assert relative(got, reference[name]) < 1e-5, name  # a dozen float32 roundings
        together = fast(image(16))
        for name in wanted:
            assert relative(together[name], reference[name]) < 1e-5, name
        assert ("mix" in fast.unfit) == ("mix" in wanted)
        assert "early" not in fast.unfit


def test_the_tolerance_tells_a_wrong_fold_from_roundings(nets):
    """The smallest use of a convolution's output elsewhere that passes as rounding changes the result no more."""
    for gain in (1e-1, 1e-3, 1e-5):
        torch.manual_seed(0)
        net = pristine(nets.Shared(gain), CPU)
        found = tracing.trace(net, 16)
        reference = outputs(net, found, ["mix"], image(16))["mix"]
        with prepare(net, found, ["mix"], 16, torch.float32) as fast, torch.no_grad():
            assert relative(fast(image(16))["mix"], reference) < 1.5 * FOLD_TOLERANCE


@pytest.mark.parametrize("wanted", ["left", "right", "mix"])
def test_two_batch_norms_on_one_convolution_stay_right(nets, wanted):
    net = pristine(nets.Twins(), CPU)
    found = tracing.trace(net, 16)
    reference = outputs(net, found, [wanted], image(16))[wanted]
    with prepare(net, found, [wanted], 16, torch.float32) as fast, torch.no_grad():
        assert relative(fast(image(16))[wanted], reference) < 1e-5


def test_a_batch_norm_that_does_more_does_not_keep_the_others_from_folding(nets):
    net = pristine(nets.Mixed(), CPU)
    found = tracing.trace(net, 16)
    reference = outputs(net, found, ["second_norm"], image(16))["second_norm"]
    with prepare(net, found, ["second_norm"], 16, torch.float32) as fast, torch.no_grad():
        assert relative(fast(image(16))["second_norm"], reference) < 1e-5
        assert isinstance(fast.folded.module.get_submodule("first_norm"), nn.Identity)
        assert isinstance(fast.folded.module.get_submodule("second_norm"), nets.ActiveNorm)


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}])
def test_a_batch_norm_without_weights_or_statistics(nets, options):
    net = nets.settle(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, **options), nn.ReLU()))
    net = pristine(net, CPU)
    found = tracing.trace(net, 16)
    reference = outputs(net, found, ["2"], image(16))["2"]
    with prepare(net, found, ["2"], 16, torch.float32) as fast, torch.no_grad():
        assert relative(fast(image(16))["2"], reference) < 1e-5
    assert norms(fast.folded.module) == (0 if "affine" in options else 1)  # statistics of the batch cannot be folded


def test_a_wanted_convolution_gives_what_it_gave_before_folding(tiny):
    net = pristine(tiny.module, CPU)
    found = tracing.trace(net, 32)
    reference = outputs(net, found, ["stem", "deep", "deep_norm"], image(32))
    with prepare(net, found, ["stem", "deep", "deep_norm"], 32, torch.float32) as fast, torch.no_grad():
        got = fast(image(32))
        assert norms(fast.folded.module) == 0
    for name, value in reference.items():
        assert relative(got[name], value) < 1e-5
    assert relative(reference["stem"], outputs(net, found, ["norm"], image(32))["norm"]) > 0.1


def test_which_layers_are_wanted_together_changes_no_bit(tiny):
    net = pristine(tiny.module, CPU)
    found = tracing.trace(net, 32)
    names = ["stem", "norm", "deep", "deep_act", "logits"]
    with prepare(net, found, names, 32, torch.float32) as together, torch.no_grad():
        for name in names:
            with prepare(net, found, [name], 32, torch.float32) as alone:
                assert together(image(32), [name])[name].equal(alone(image(32), [name])[name]), name
                assert hasattr(alone.folded.module.get_submodule("stem"), UNFOLDED) == (name == "stem")


def test_half_precision_stays_near(tiny):
    net = pristine(tiny.module, CPU)
    found = tracing.trace(net, 32)
    reference = outputs(net, found, ["deep_act"], image(32))["deep_act"]
    with prepare(net, found, ["deep_act"], 32, torch.bfloat16) as fast, torch.no_grad():
        got = fast(image(32).bfloat16())["deep_act"]
    assert got.dtype == torch.bfloat16
    # 8 bits: 2^-9 a rounding, of the input, two layers' weights and outputs
    assert 1e-4 < relative(got.float(), reference) < 0.02


def test_leaving_removes_the_hooks(nets):
    net = pristine(nets.Shared(), CPU)
    found = tracing.trace(net, 16)
    with prepare(net, found, ["mix", "conv"], 16, torch.float32) as fast:
        taps = [fast.folded, fast.plain]
        assert all(tap is not None and any(c._forward_hooks for c in tap.module.modules()) for tap in taps)
    assert not any(c._forward_hooks for tap in taps if tap is not None for c in tap.module.modules())


def test_a_network_without_convolutions(nets):
    net = pristine(nets.ChannelsLast(), CPU)
    found = tracing.trace(net, 16)
    with prepare(net, found, ["last"], 16, torch.float32) as fast, torch.no_grad():
        expected = outputs(net, found, ["last"], image(16))["last"]
        torch.testing.assert_close(fast(image(16))["last"], expected, rtol=0, atol=0)


@pytest.mark.skipif(bool(lowering.unusable(torch.float32)), reason="needs PyTorch with oneDNN")
def test_a_fault_while_fusing_costs_nothing_but_time(tiny, monkeypatch):
    net = pristine(tiny.module, CPU)
    fuse = lowering.fuse
    monkeypatch.setattr(lowering, "fuse", lambda *_: {}["a mistake"])
    fast = prepare(net, tracing.trace(net, 32), ["deep"], 32, torch.float32)
    with pytest.warns(Fault, match="KeyError: 'a mistake'.*report it"):
        found = fast(image(32))["deep"]
    assert found.equal(fast.folded(image(32))["deep"])
    fast(image(32))  # that was said once
    assert fast.form == ("modules", "a fault of fvfast's: KeyError: 'a mistake'")
    with pytest.raises(Fault) as raised:  # as an error it has its trace
        fast(image(16))
    assert isinstance(raised.value.__context__, KeyError)
    monkeypatch.setattr(lowering, "fuse", fuse)
    fast = prepare(net, tracing.trace(net, 32), ["deep"], 32, torch.float32)
    fast(image(32))
    assert fast.form == ("fused", "")
