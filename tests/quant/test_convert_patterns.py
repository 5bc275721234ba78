"""Layers and their widths: patterns, first and last layers, exclusions; a miss is an error."""

from __future__ import annotations

import pytest

from qreg_yolo.quant.convert import plan_quantization, quantize_model
from qreg_yolo.quant.spec import QuantSpec
from tests.quant.synthetic_networks import mixed

ALL = ["stem", "twice", "again", "block.0", "other.conv", "head"]


def swapped(spec, **options):
    return plan_quantization(mixed(), spec, **options).swapped


def widths(plans):
    return {n: (p.weight.bits if p.weight else 32, p.input.bits if p.input else 32) for n, p in plans.items()}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ALL),
        ({"include": ("stem", "b*")}, ["stem", "block.0"]),
        ({"exclude": ("*o*",)}, ["stem", "twice", "again", "head"]),
        ({"include": ["?????"], "exclude": ["again"]}, ["twice"]),
        ({"exclude": ["*"]}, []),
    ],
)
def test_include_and_exclude(options, expected):
    assert list(swapped(QuantSpec(**options))) == expected


def test_the_reason_names_the_pattern():
    skipped = plan_quantization(mixed(), QuantSpec(include=("*",), exclude=("st*",))).skipped
    assert skipped["stem"] == "excluded by 'st*'"
    skipped = plan_quantization(mixed(), QuantSpec(include=("stem",))).skipped
    assert skipped["head"] == "not included"


def test_mixed_precision_by_pattern_the_last_match_wins():
    spec = QuantSpec(
        weight_bits=4,
        act_bits=6,
        overrides={
            "*": {"act_bits": 8},
            "b*": {"bits": 2},
            "block.0": {"weight_bits": 3, "per_channel": True},
            "stem": {"bits": 32},
            "head": {"method": "dorefa", "bits": 5, "weight_bits": 7},
        },
    )
    plans = swapped(spec)
    assert widths(plans) == {
        "twice": (4, 8),
        "again": (4, 8),
        "head": (7, 5),
        "block.0": (3, 2),
        "other.conv": (4, 8),
    }
    assert plans["block.0"].weight.per_channel
    assert not plans["twice"].weight.per_channel
    assert (plans["head"].weight.method, plans["head"].input.method) == ("dorefa", "dorefa")
    assert plan_quantization(mixed(), spec).skipped["stem"] == "32 bits"


@pytest.mark.parametrize("option", ["include", "exclude", "overrides"])
def test_a_pattern_that_misses_names_the_nearest_layer(option):
    value = {"twics": {"bits": 8}} if option == "overrides" else ("twics",)
    model = mixed()
    types = [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match=rf"{option} pattern 'twics' matches no layer. Did you mean 'twice'\?"):
        quantize_model(model, QuantSpec(**{option: value}))
    assert [type(m) for m in model.modules()] == types


@pytest.mark.parametrize("argument", ["first_last_layers", "keep_float"])
def test_a_name_that_misses_names_the_nearest_layer(argument):
    value = {"hed": "why not"} if argument == "keep_float" else ["hed"]
    with pytest.raises(ValueError, match=rf"{argument}: the model has no layer 'hed'. Did you mean 'head'\?"):
        plan_quantization(mixed(), QuantSpec(), **{argument: value})


@pytest.mark.parametrize(
    ("method", "first_last_bits", "edge"),
    [
        ("lsq", None, (8, 8)),
        ("lsq", 32, None),
        ("lsq", "same", (4, 2)),
        ("pact", None, None),
        ("pact", 8, (8, 8)),
        ("pact", "same", (4, 2)),
        ("dorefa", None, None),
        ("dorefa", 8, (8, 8)),
    ],
)
def test_edges_by_method(method, first_last_bits, edge):
    spec = QuantSpec(method=method, weight_bits=4, act_bits=2, first_last_bits=first_last_bits)
    report = plan_quantization(mixed(), spec, first_last_layers=["stem", "head"])
    found = widths(report.swapped)
    assert found["twice"] == (4, 2)
    for name in ("stem", "head"):
        assert found.get(name) == edge
        if edge is None:
            assert report.skipped[name] == "first or last layer, in full precision"


def test_an_edge_keeps_a_side_that_is_in_full_precision():
    plans = swapped(QuantSpec(weight_bits=4, act_bits=32), first_last_layers=["stem"])
    assert widths(plans)["stem"] == (8, 32)
    assert swapped(QuantSpec(weight_bits=32, act_bits=32), first_last_layers=["stem"]) == {}


def test_an_override_wins_over_the_edge():
    plans = swapped(QuantSpec(overrides={"stem": {"weight_bits": 3}}), first_last_layers=["stem", "head"])
    assert widths(plans)["stem"] == (3, 8)
    assert widths(plans)["head"] == (8, 8)


def test_keep_float_gives_its_reason():
    report = plan_quantization(mixed(), QuantSpec(), keep_float={"head": "decodes boxes"})
    assert report.skipped["head"] == "decodes boxes"
    assert "head" not in report.swapped


def test_the_report_reads_well():
    text = str(plan_quantization(mixed(), QuantSpec(act_bits=32, exclude=("head",))))
    lines = text.splitlines()
    assert lines[0] == "5 layers quantized, 4 left in full precision"
    assert "  stem: weight lsq 4 bits, input fp32" in lines
    assert "  head: skipped, excluded by 'head'" in lines
