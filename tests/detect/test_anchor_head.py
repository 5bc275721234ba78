"""The anchor head: YOLOv5's parameters, its decoded boxes, and that it lives through what any head does."""

from __future__ import annotations

import io
import math
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from qreg_yolo.detect import QuantDetectionModel
from qreg_yolo.detect.anchor_head import ANCHORS, AnchorDetect, check_levels
from qreg_yolo.detect.policy import first_last_layers, float_layers
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.errors import ModelError
from qreg_yolo.quant import quantized_layers
from tests.detect import factories
from tests.detect.factories import images

build = partial(factories.build, model="yolov5n.yaml")
calibrated = partial(factories.calibrated, model="yolov5n.yaml")

EDGES = ["model.0.conv", *(f"model.24.m.{level}" for level in range(3))]
pytestmark = pytest.mark.usefixtures("torch_on_one_thread")


def small_head(nc: int = 2) -> AnchorDetect:
    torch.manual_seed(0)
    head = AnchorDetect(nc, (4, 4, 4), torch.tensor([8.0, 16.0, 32.0]))
    return head.requires_grad_(False)


def maps(height: int = 4, width: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 4, height // s, width // s, generator=generator) for s in (1, 2, 4)]


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("n", 1872157), ("s", 7235389), ("m", 21190557), ("l", 46563709), ("x", 86749405)],
)
def test_it_has_the_parameters_of_yolov5(size: str, parameters: int) -> None:
    model = build(nc=80, model=f"yolov5{size}.yaml", bits=32, head="anchor")
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert size != "n" or len(model.state_dict()) == 349
    assert [conv.out_channels for conv in model.model[-1].m] == [255] * 3


def test_decoded_outputs_are_the_published_formula() -> None:
    head, features = small_head(), maps()
    training = head.train()(features)["levels"]
    y, raw = head.eval()(features)
    assert all(torch.equal(a, b) for a, b in zip(raw["levels"], training, strict=True))
    assert y.shape == (2, 4 + 2, 3 * (4 * 8 + 2 * 4 + 1 * 2))

    def sigmoid(value: torch.Tensor) -> float:
        return 1 / (1 + math.exp(-float(value)))

    place = 0
    for level, stride in enumerate((8, 16, 32)):
        _, _, height, width = training[level].shape
        for anchor in range(3):
            for row in range(height):
                for column in range(width):
                    t = training[level][1, 7 * anchor : 7 * anchor + 7, row, column]
                    expected = [
                        (2 * sigmoid(t[0]) - 0.5 + column) * stride,
                        (2 * sigmoid(t[1]) - 0.5 + row) * stride,
                        (2 * sigmoid(t[2])) ** 2 * ANCHORS[level][anchor][0],
                        (2 * sigmoid(t[3])) ** 2 * ANCHORS[level][anchor][1],
                        sigmoid(t[4]) * sigmoid(t[5]),
                        sigmoid(t[4]) * sigmoid(t[6]),
                    ]
                    assert y[1, :, place].tolist() == pytest.approx(expected, rel=1e-5), (level, anchor, row, column)
                    place += 1
    assert place == y.shape[2]


def test_export_gives_the_decoded_outputs_alone_with_corners_where_asked() -> None:
    head, features = small_head().eval(), maps()
    y = head(features)[0]
    head.export, head.xyxy = True, True
    corners = head(features)
    assert torch.equal(corners[:, 4:], y[:, 4:])
    assert torch.allclose((corners[:, :2] + corners[:, 2:4]) / 2, y[:, :2], atol=1e-4)
    assert torch.allclose(corners[:, 2:4] - corners[:, :2], y[:, 2:4], atol=1e-4)


def test_biases_begin_with_rare_objects() -> None:
    """The expected values are written down in the published checkpoints' own terms: added to the default bias."""
    torch.manual_seed(0)
    plain = [nn.Conv2d(4, 3 * 25, 1).bias.view(3, 25) for _ in range(3)]
    torch.manual_seed(0)
    head = AnchorDetect(20, (4, 4, 4), torch.tensor([8.0, 16.0, 32.0]))
    for conv, bias, objectness in zip(head.m, plain, (-6.685, -5.298, -3.912), strict=True):
        added = conv.bias.view(3, 25) - bias
        assert torch.allclose(added[:, 4], torch.tensor(objectness), atol=1e-3)
        assert torch.allclose(added[:, 5:], torch.tensor(-3.455), atol=1e-3)
        assert not added[:, :4].any()


@pytest.mark.parametrize(
    ("model", "words"),
    [("yolo26n.yaml", "one-to-one"), ("yolov5-p6.yaml", "8, 16, 32, 64"), ("yolov8n-seg.yaml", "Segment")],
)
def test_other_detectors_are_refused(model: str, words: str) -> None:
    cfg = yaml_model_load(model)
    with pytest.raises(ModelError, match=words):
        check_levels(DetectionModel(cfg, verbose=False))
    QuantizationConfig.from_request({"bits": 4, "head": "anchor"}, pretrained=False).write(cfg)
    with pytest.raises(ModelError, match="anchor_free"):
        QuantDetectionModel(cfg, verbose=False)


def test_the_three_output_convolutions_are_the_edge() -> None:
    model = build(bits=4, head="anchor")
    section = QuantizationConfig.read(model.yaml)
    assert section is not None
    assert section.layers is not None
    assert section.head.kind == "anchor"
    assert first_last_layers(model) == EDGES
    assert float_layers(model) == {}
    assert section.skipped == {}
    assert len(section.layers) == 60
    widths = {name: (plan.weight.bits, plan.input.bits) for name, plan in section.layers.items() if plan.weight}
    assert {name for name, width in widths.items() if width == (8, 8)} == set(EDGES)
    assert {width for name, width in widths.items() if name not in EDGES} == {(4, 4)}
    layers = quantized_layers(build(nc=80, bits=4, head="anchor"))
    assert [layers[name].out_channels for name in EDGES[1:]] == [255, 255, 255]


@pytest.mark.parametrize("method", ["pact", "dorefa"])
def test_the_edge_stays_float_for_pact_and_dorefa(method: str) -> None:
    section = QuantizationConfig.read(build(bits=4, method=method, head="anchor").yaml)
    assert section is not None
    assert section.skipped.keys() == set(EDGES)


@pytest.mark.parametrize("bits", [4, 32])
def test_fuse_casts_copies_and_pickles_change_nothing(bits: int) -> None:
    model = calibrated(bits=bits, head="anchor")
    expected = model(images())[0]
    assert model.fuse(verbose=False) is model
    assert not model.is_fused()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for copy in (model.half(), deepcopy(model), torch.load(buffer, weights_only=False)):
        assert torch.equal(copy(images())[0], expected)
    assert model.half()(images().half())[0].dtype == torch.float32


def test_rebuilding_from_the_yaml_gives_the_same_detector() -> None:
    model = calibrated(bits=4, head={"kind": "anchor", "box": 0.02})
    again = QuantDetectionModel(deepcopy(model.yaml), nc=4, verbose=False)
    again.load(model, verbose=False)
    assert torch.equal(again.eval()(images())[0], model(images())[0])
    section = QuantizationConfig.read(again.yaml)
    assert section is not None
    assert section.head.box == 0.02


def test_backbone_and_neck_of_the_hosts_detector_are_taken() -> None:
    plain = DetectionModel("yolov5n.yaml", nc=4, verbose=False)
    model = build(bits=4, head="anchor")
    fresh = model.model[-1].m[0].weight.detach().clone()
    model.load(plain, verbose=False)
    assert torch.equal(model.get_submodule("model.23.cv3.conv").weight, plain.get_submodule("model.23.cv3.conv").weight)
    assert torch.equal(model.model[-1].m[0].weight, fresh)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("anchors", "Did you mean 'anchor'"),
        ({"kind": "anchor", "boxx": 1}, "Did you mean 'box'"),
        ({"kind": "anchor", "anchor_t": 1.0}, r"anchor_t=1\.0"),
        ({"kind": "anchor", "obj": float("nan")}, "obj=nan"),
        ({"autoanchor": True}, "--head anchor"),
    ],
)
def test_wrong_requests_are_named(head: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        QuantizationConfig.from_request({"bits": 4, "head": head}, pretrained=False)


def test_a_section_without_a_head_has_the_hosts() -> None:
    """Checkpoints of before the anchor head have none."""
    yaml = build(bits=4).yaml
    assert "head" not in yaml["qreg"]
    section = QuantizationConfig.read(yaml)
    assert section is not None
    assert section.head.kind == "anchor_free"
