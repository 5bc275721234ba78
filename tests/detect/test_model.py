"""Structure: what is swapped, what stays, and that a model survives building, casting, copying and reloading."""

from __future__ import annotations

import io
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import DetectionModel

from qreg_yolo.detect import QuantDetectionModel
from qreg_yolo.detect.model import quantizer_state
from qreg_yolo.detect.policy import clipping_warning, first_last_layers, float_layers
from qreg_yolo.detect.quantization_config import KEY, QuantizationConfig
from qreg_yolo.quant import QuantConv2d, QuantSpec, calibrate, quantized_layers, uninitialized_quantizers
from tests.detect import factories
from tests.detect.factories import images

DFL = "model.24.dfl.conv"
EDGES = ["model.0.conv", *(f"model.24.cv{branch}.{level}.2" for branch in (2, 3) for level in range(3))]


build = partial(factories.build, model="yolov5n.yaml")
calibrated = partial(factories.calibrated, model="yolov5n.yaml")


def test_golden_structure_of_yolov5n() -> None:
    model = build(bits=4)
    section = QuantizationConfig.read(model.yaml)
    assert section is not None
    assert section.layers is not None
    assert len(section.layers) == 75
    assert section.skipped.keys() == {DFL}
    assert "DFL" in section.skipped[DFL]
    assert sorted(first_last_layers(model)) == sorted(EDGES)
    assert list(float_layers(model)) == [DFL]
    for name, plan in section.layers.items():
        assert plan.weight is not None
        assert plan.input is not None
        assert (plan.weight.bits, plan.input.bits) == ((8, 8) if name in EDGES else (4, 4)), name
    assert type(model.get_submodule(DFL)) is nn.Conv2d


@pytest.mark.parametrize("method", ["pact", "dorefa"])
def test_edges_stay_float_for_pact_and_dorefa(method: str) -> None:
    section = QuantizationConfig.read(build(bits=4, method=method).yaml)
    assert section is not None
    assert section.layers is not None
    assert len(section.layers) == 68
    assert section.skipped.keys() == {DFL, *EDGES}


def test_edges_of_an_end_to_end_head_count_its_one_to_one_branches() -> None:
    """Chosen by structure: YOLO26 has twelve bare output convolutions in another place of the graph, and no DFL."""
    model = DetectionModel("yolo26n.yaml", nc=4, verbose=False)
    edges = first_last_layers(model)
    assert edges[0] == "model.0.conv"
    assert sum("one2one" in name for name in edges) == 6
    assert len(edges) == 13
    assert float_layers(model) == {}


@pytest.mark.parametrize(("first_last_bits", "widths"), [(8, {8}), ("same", {3}), (32, set())])
def test_edge_bits(first_last_bits: int | str, widths: set[int]) -> None:
    layers = quantized_layers(build(bits=3, first_last_bits=first_last_bits))
    assert {layer.weight_fake_quant.bits for name, layer in layers.items() if name in EDGES} == widths


def test_weight_only_has_no_input_quantizers() -> None:
    layers = quantized_layers(build(bits=4, method="dorefa", weight_only=True))
    assert len(layers) == 68
    assert all(layer.input_fake_quant is None and layer.weight_fake_quant is not None for layer in layers.values())


def test_dorefa_keeps_the_scale_where_no_norm_follows_or_weights_are_loaded() -> None:
    def rescaled(**request: Any) -> set[str]:
        layers = quantized_layers(build(bits=4, method="dorefa", first_last_bits="same", **request))
        return {name for name, layer in layers.items() if layer.weight_fake_quant.spec.rescale}

    assert rescaled() == set(EDGES[1:])  # the bare output convolutions; the first one has BatchNorm behind it
    assert len(rescaled(pretrained=True)) == 75
    assert rescaled(rescale=False, pretrained=True) == set()


def test_state_dict_keys_are_the_float_models_and_the_quantizers() -> None:
    model, plain = build(bits=4), DetectionModel("yolov5n.yaml", nc=4, verbose=False)
    extra = {key for key in model.state_dict() if key not in plain.state_dict()}
    assert set(plain.state_dict()) <= set(model.state_dict())
    assert extra == set(quantizer_state(model))
    assert len(extra) == 75 * 2 + 75 * 3  # step_size, initialized; inputs also is_signed


def test_lsq_plus_has_offsets_and_rebuilds() -> None:
    model = calibrated(bits=2, method="lsq+", offset="float")
    section = QuantizationConfig.read(model.yaml)
    assert section is not None
    assert section.layers is not None
    assert {(p.weight.method, p.input.method) for p in section.layers.values() if p.weight and p.input} == {
        ("lsq+", "lsq+")
    }
    assert {p.input.bits for n, p in section.layers.items() if n in EDGES and p.input} == {8}
    offsets = [value for key, value in model.state_dict().items() if key.endswith("input_fake_quant.offset")]
    assert len(offsets) == 75
    assert sum(float(offset) < 0 for offset in offsets) > 60  # SiLU's minimum, or nearly
    again = QuantDetectionModel(deepcopy(model.yaml), nc=4, verbose=False)
    again.load(model, verbose=False)
    assert not uninitialized_quantizers(again)
    assert torch.equal(again.eval()(images())[0], model(images())[0])


def test_the_baseline_is_the_ultralytics_model_bit_for_bit() -> None:
    torch.manual_seed(3)
    baseline = build(bits=32).eval()
    torch.manual_seed(3)
    plain = DetectionModel("yolov5n.yaml", nc=4, verbose=False).eval()
    assert not quantized_layers(baseline)
    assert "qreg" in baseline.yaml
    assert torch.equal(baseline(images())[0], plain(images())[0])


def test_rebuilding_from_the_yaml_decides_nothing_again() -> None:
    model = calibrated(bits=4)
    signs = [layer.input_fake_quant.spec.signed for layer in quantized_layers(model).values()]
    assert None not in signs
    assert {True, False} == set(signs)
    again = QuantDetectionModel(deepcopy(model.yaml), nc=4, verbose=False)
    assert uninitialized_quantizers(again)
    again.load_state_dict(model.state_dict())
    assert [layer.input_fake_quant.spec.signed for layer in quantized_layers(again).values()] == signs
    assert torch.equal(again.eval()(images())[0], model(images())[0])


def test_a_section_of_another_version_is_refused() -> None:
    cfg = deepcopy(build(bits=4).yaml)
    cfg[KEY]["version"] = 99
    with pytest.raises(ValueError, match="version 99"):
        QuantDetectionModel(cfg, nc=4, verbose=False)


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_half_precision_never_reaches_the_tensors(cast: str) -> None:
    model = calibrated(bits=4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model(images())[0]
    getattr(model, cast)()
    assert all(
        torch.equal(value, before[key]) and value.dtype == before[key].dtype
        for key, value in model.state_dict().items()
    )
    assert torch.equal(model(images())[0], expected)
    half = model(images().to(getattr(torch, "float16" if cast == "half" else "bfloat16")))[0]
    assert half.dtype == torch.float32


def test_fuse_changes_nothing() -> None:
    model = calibrated(bits=4)
    expected = model(images())[0]
    assert model.fuse(verbose=False) is model
    assert not model.is_fused()
    assert torch.equal(model(images())[0], expected)


def test_a_copy_and_a_pickle_are_the_same_model() -> None:
    model = calibrated(bits=2)
    expected = model(images())[0]
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for copy in (deepcopy(model), torch.load(buffer, weights_only=False)):
        assert not uninitialized_quantizers(copy)
        assert torch.equal(copy(images())[0], expected)


def test_float_weights_of_another_class_count_load_and_stay_quantized() -> None:
    torch.manual_seed(0)
    source = DetectionModel("yolov5n.yaml", nc=80, verbose=False)  # its class branch is wider than ours
    model = build(nc=4, bits=4, pretrained=True)
    model.load(source, verbose=False)
    assert len(quantized_layers(model)) == 75
    assert torch.equal(model.get_submodule("model.9.cv1.conv").weight, source.get_submodule("model.9.cv1.conv").weight)
    assert model.get_submodule("model.24.cv3.0.2").out_channels == 4
    assert len(uninitialized_quantizers(model)) == 150
    calibrate(model, [images()])
    model(images())


def test_a_source_quantized_alike_gives_its_ranges_too() -> None:
    source = calibrated(bits=4)
    model = build(bits=4)
    model.load(source, verbose=False)
    assert not uninitialized_quantizers(model)
    assert torch.equal(model.eval()(images())[0], source(images())[0])


def test_a_source_quantized_otherwise_gives_its_float_weights_only() -> None:
    source = calibrated(bits=8)
    model = build(bits=2)
    model.load(source, verbose=False)
    assert len(uninitialized_quantizers(model)) == 150
    assert torch.equal(model.get_submodule("model.1.conv").weight, source.get_submodule("model.1.conv").weight)
    assert len(quantized_layers(source)) == 75, "the source was changed"


def test_an_uncalibrated_model_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="calibrate"):
        build(bits=4).eval()(images())


def test_relu_is_built_and_does_not_leak() -> None:
    model = build(bits=4, method="pact", activation="relu")
    assert all(isinstance(m.act, nn.ReLU) for m in model.modules() if isinstance(m, Conv) and hasattr(m, "act"))
    assert isinstance(Conv.default_act, nn.SiLU)
    assert isinstance(build(bits=4).get_submodule("model.0").act, nn.SiLU)


@pytest.mark.parametrize(
    ("request_", "warned"),
    [
        ({"method": "pact"}, True),
        ({"method": "dorefa"}, True),
        ({"method": "dorefa", "weight_only": True}, False),
        ({"method": "lsq"}, False),
        ({"method": "lsq+"}, False),
    ],
)
def test_clipping_warning(request_: dict[str, Any], warned: bool) -> None:
    spec = QuantSpec.from_options(request_)
    assert ("SiLU" in str(clipping_warning(build(**request_), spec, "silu"))) is warned
    assert clipping_warning(build(**request_, activation="relu"), spec, "relu") is None


def test_unknown_request_options_are_named() -> None:
    with pytest.raises(ValueError, match="Did you mean 'weight_bits'"):
        build(weigth_bits=4)
    with pytest.raises(ValueError, match="Did you mean 'relu'"):
        build(bits=4, activation="rellu")


def test_layers_can_be_mixed_in_precision() -> None:
    model = build(bits=4, overrides={"model.24.*": {"bits": 8}}, exclude=["model.9.*"])
    layers = quantized_layers(model)
    assert {layer.weight_fake_quant.bits for name, layer in layers.items() if name.startswith("model.24.")} == {8}
    assert not any(name.startswith("model.9.") for name in layers)
    assert isinstance(layers["model.1.conv"], QuantConv2d)
