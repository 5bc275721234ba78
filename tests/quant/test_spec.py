from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qreg_yolo.quant.spec import FLOAT_BITS, METHODS, WIDTHS, LayerPlan, QuantizerSpec, QuantSpec, check_bits


@pytest.mark.parametrize("bits", [0, 9, -4, 16, 3.5, 4.0, True, False, "4", None, [4], math.nan])
def test_bad_widths(bits):
    with pytest.raises(ValueError, match=r"bits=.* is not a width. Use 1 to 8, or 32 for full precision."):
        check_bits("bits", bits)
    for name in ("weight_bits", "act_bits"):
        with pytest.raises(ValueError, match=f"{name}="):
            QuantSpec(**{name: bits})
    if bits is not None:
        with pytest.raises(ValueError, match="bits="):
            QuantSpec.from_options({"bits": bits})


@pytest.mark.parametrize("bits", WIDTHS)
def test_good_widths(bits):
    spec = QuantSpec.from_options({"bits": bits})
    assert (spec.weight_bits, spec.act_bits) == (bits, bits)
    assert spec.is_float is (bits == 32)
    assert spec.label == ("fp32" if bits == 32 else f"lsq-w{bits}a{bits}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "lqs"}, "method='lqs' is not one of: lsq, lsq+, pact, dorefa. Did you mean 'lsq'?"),
        ({"method": "lsqplus"}, "Did you mean 'lsq+'?"),
        ({"method": "LSQ+"}, "method='LSQ+' is not one of: lsq, lsq+"),
        ({"method": "lsq+", "signed": "signed"}, "signed='signed' does not go with method='lsq+': a learned offset"),
        ({"method": "lsq+", "signed": "unsigned"}, "leave signed at 'auto'"),
        ({"signed": "unsigned", "overrides": {"a": {"method": "lsq+"}}}, "does not go with method='lsq+'"),
        ({"method": "dorefanet"}, "Did you mean 'dorefa'?"),
        ({"method": 3}, "method=3 is not one of"),
        ({"signed": "sigend"}, "Did you mean 'signed'?"),
        ({"signed": True}, "signed=True is not one of: auto, signed, unsigned"),
        ({"grad_scale": "numel"}, "grad_scale='numel' is not one of: sample, batch"),
        ({"rescale": 1}, "rescale=1 is not one of: auto, true, false"),
        ({"first_last_bits": 4}, "first_last_bits=4 is not one of: 8, 32, same"),
        ({"first_last_bits": "8"}, "first_last_bits='8'"),
        ({"clip_init": 0}, "clip_init must be a positive number, not 0"),
        ({"clip_init": True}, "clip_init must be a positive number"),
        ({"clip_init": math.inf}, "clip_init must be a positive number"),
        ({"clip_decay": -1e-4}, "clip_decay must be 0 or more"),
        ({"clip_decay": math.nan}, "clip_decay must be 0 or more"),
        ({"clip_decay": "much"}, "clip_decay must be 0 or more, not 'much'"),
        ({"method": "pact", "signed": "signed"}, "signed='signed' does not go with method='pact'"),
        ({"method": "dorefa", "signed": "signed"}, "signed='signed' does not go with method='dorefa'"),
        ({"overrides": {"a": {"bitz": 4}}}, "Override 'a': 'bitz' is not an option of a layer. Did you mean 'bits'?"),
        ({"overrides": {"a": {"bits": 9}}}, "bits=9 is not a width"),
        ({"overrides": {"a": {"method": "lsk"}}}, "Did you mean 'lsq'?"),
    ],
)
def test_bad_values_say_what_and_what_instead(options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        QuantSpec(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"per_channel": 1}, "per_channel must be true or false"),
        ({"max_grad": "yes"}, "max_grad must be true or false"),
        ({"include": "conv1"}, "include must be a list of layer patterns"),
        ({"exclude": "conv1"}, "exclude must be a list of layer patterns"),
        ({"exclude": [1]}, "exclude must be a list of layer patterns"),
        ({"overrides": {"a": 4}}, "overrides must map layer patterns to options"),
        ({"overrides": ["a"]}, "overrides must map layer patterns to options"),
    ],
)
def test_bad_types(options, words):
    with pytest.raises(TypeError, match=words):
        QuantSpec(**options)


def test_from_options_names_the_nearest_option():
    with pytest.raises(ValueError, match=r"'weigth_bits' is not a quantization option. Did you mean 'weight_bits'\?"):
        QuantSpec.from_options({"weigth_bits": 4})


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({}, (4, 4)),
        ({"bits": 2}, (2, 2)),
        ({"bits": 2, "act_bits": 8}, (2, 8)),
        ({"bits": 2, "weight_bits": 3}, (3, 2)),
        ({"weight_only": True}, (4, 32)),
        ({"weight_only": True, "bits": 2}, (2, 32)),
        ({"weight_only": True, "act_bits": 32}, (4, 32)),
        ({"weight_only": False, "bits": 3}, (3, 3)),
        ({"weight_only": True, "weight_bits": 8}, (8, 32)),
    ],
)
def test_bits_and_weight_only(options, widths):
    spec = QuantSpec.from_options(options)
    assert (spec.weight_bits, spec.act_bits) == widths


def test_weight_only_conflicts():
    with pytest.raises(ValueError, match=r"weight_only means act_bits=32, but act_bits=4 was given. Drop one"):
        QuantSpec.from_options({"weight_only": True, "act_bits": 4})
    with pytest.raises(TypeError, match="weight_only must be true or false"):
        QuantSpec.from_options({"weight_only": 1})


def test_from_options_leaves_its_argument_alone():
    options = {"bits": 4, "weight_only": True}
    QuantSpec.from_options(options)
    assert options == {"bits": 4, "weight_only": True}


def test_a_weight_only_spec_may_ask_for_signed():
    QuantSpec(method="dorefa", act_bits=32, signed="signed")
    QuantSpec(method="lsq+", act_bits=32, signed="signed")


@pytest.mark.parametrize(
    ("method", "first_last_bits", "expected"),
    [
        ("lsq", None, 8),
        ("lsq+", None, 8),
        ("pact", None, 32),
        ("dorefa", None, 32),
        ("lsq", 32, 32),
        ("pact", 8, 8),
        ("dorefa", "same", 3),
    ],
)
def test_edge_widths_by_method(method, first_last_bits, expected):
    edge = QuantSpec(method=method, weight_bits=3, act_bits=3, first_last_bits=first_last_bits).first_last()
    assert (edge.weight_bits, edge.act_bits) == (expected, expected)


def test_is_float_counts_the_overrides():
    off = {"weight_bits": 32, "act_bits": 32}
    assert QuantSpec(**off, overrides={"a": {"bits": 32}}).is_float
    assert not QuantSpec(**off, overrides={"a": {"act_bits": 8}}).is_float
    assert not QuantSpec(weight_bits=32, act_bits=8).is_float


def test_layer_plan_by_method():
    plan = QuantSpec(method="pact", weight_bits=2, act_bits=3, clip_init=6.0, max_grad=True).layer_plan(rescale=None)
    assert plan.weight == QuantizerSpec(method="dorefa", bits=2, signed=True, max_grad=True)
    assert plan.input == QuantizerSpec(method="pact", bits=3, signed=False, clip_init=6.0)
    plan = QuantSpec(grad_scale="batch", per_channel=True, max_grad=True).layer_plan(rescale=True)
    assert plan.weight == QuantizerSpec(method="lsq", bits=4, signed=True, per_channel=True)
    assert plan.input == QuantizerSpec(method="lsq", bits=4, signed=None, grad_scale="batch")
    plan = QuantSpec(method="lsq+", grad_scale="batch").layer_plan(rescale=None)
    assert plan.weight == QuantizerSpec(method="lsq+", bits=4, signed=True)
    assert plan.input == QuantizerSpec(method="lsq+", bits=4, signed=False, grad_scale="batch", offset="integer")
    plan = QuantSpec(method="lsq+", offset="float").layer_plan(rescale=None)
    assert plan.input == QuantizerSpec(method="lsq+", bits=4, signed=False)
    signs = {name: QuantSpec(signed=name).layer_plan(rescale=None).input.signed for name in ("signed", "unsigned")}
    assert signs == {"signed": True, "unsigned": False}
    assert QuantSpec(weight_bits=FLOAT_BITS, act_bits=FLOAT_BITS).layer_plan(rescale=None).is_float


def test_the_start_of_ranges_depends_on_the_weights_unless_it_is_given():
    def starts(pretrained, **options):
        plan = QuantSpec(**options).layer_plan(rescale=None, pretrained=pretrained)
        return plan.weight.init, plan.input.init

    for method in ("lsq", "lsq+"):
        assert starts(False, method=method) == ("paper", "paper")
        assert starts(True, method=method) == ("mse", "mse")
        assert starts(True, method=method, init="paper") == ("paper", "paper")
        assert starts(False, method=method, init="percentile") == ("percentile", "percentile")
    assert starts(True, method="pact") == ("paper", "mse")  # DoReFa's weights have no range
    assert starts(True, method="dorefa") == ("paper", "paper")


def test_the_clipping_value_is_the_papers_or_calibrated_unless_it_is_given():
    def clip(pretrained, **options):
        return QuantSpec(method="pact", **options).layer_plan(rescale=None, pretrained=pretrained).input.clip_init

    assert clip(False) == 10.0
    assert clip(True) is None
    assert clip(True, init="paper") == 10.0
    assert clip(True, clip_init=6.0) == 6.0


def test_the_label_suits_a_folder_and_an_address():
    assert QuantSpec(method="lsq+", weight_bits=2).label == "lsqplus-w2a4"


def test_frozen():
    spec = QuantSpec()
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.method = "pact"
    overrides = {"a": {"bits": 8}}
    spec = QuantSpec(overrides=overrides)
    overrides["a"]["bits"] = 99
    assert spec.overrides == {"a": {"bits": 8}}


WIDTH = st.sampled_from(WIDTHS)
PATTERNS = st.lists(st.text("abc.*?[0]", min_size=1, max_size=6), max_size=3).map(tuple)


def specs(methods, signs):
    override = st.fixed_dictionaries(
        {},
        optional={"bits": WIDTH, "weight_bits": WIDTH, "act_bits": WIDTH, "per_channel": st.booleans()}
        | {"method": st.sampled_from(methods), "rescale": st.sampled_from(["auto", True, False])},
    )
    return st.builds(
        QuantSpec,
        method=st.sampled_from(methods),
        weight_bits=WIDTH,
        act_bits=WIDTH,
        first_last_bits=st.sampled_from([None, 8, 32, "same"]),
        per_channel=st.booleans(),
        signed=st.sampled_from(signs),
        grad_scale=st.sampled_from(["sample", "batch"]),
        max_grad=st.booleans(),
        rescale=st.sampled_from(["auto", True, False]),
        clip_init=st.floats(0.1, 100),
        clip_decay=st.none() | st.floats(0, 1),
        include=PATTERNS,
        exclude=PATTERNS,
        overrides=st.dictionaries(st.text("ab.*", min_size=1, max_size=4), override, max_size=3),
    )


SPECS = specs(METHODS, ["auto"]) | specs(["lsq", "pact", "dorefa"], ["auto", "unsigned"])


@given(SPECS)
def test_to_dict_survives_json_and_from_options(spec):
    assert QuantSpec.from_options(json.loads(json.dumps(spec.to_dict()))) == spec


@given(SPECS, st.booleans(), st.sampled_from([None, True, False]))
def test_layer_plans_survive_json(spec, edge, rescale):
    for name in ("a.b", "c"):
        plan = spec.for_layer(name, first_or_last=edge).layer_plan(rescale=rescale)
        assert LayerPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_needs_no_torch():
    code = "import sys, qreg_yolo.quant.spec, qreg_yolo.quant; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    planted = "import sys; sys.modules['torch'] = sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", planted], capture_output=True).returncode == 1
