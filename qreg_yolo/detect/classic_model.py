"""Runs a classic YOLOv5 file: the detector that it describes, with the anchor head and every tensor of the file."""

from __future__ import annotations

from ultralytics.nn.tasks import yaml_model_load

from qreg_yolo.config.detection import HeadConfig
from qreg_yolo.detect.errors import ModelError
from qreg_yolo.detect.model import QuantDetectionModel
from qreg_yolo.detect.quantization_config import Section
from qreg_yolo.detect.yolov5_weights import ClassicWeights
from qreg_yolo.errors import WeightsError
from qreg_yolo.quant.spec import FLOAT_BITS, QuantSpec
from qreg_yolo.training.tensor_file import fill

_STEM = "model.0.conv.weight"
_SIZES = {16: "n", 32: "s", 48: "m", 64: "l", 80: "x"}
"""Channels behind the first convolution -> size of YOLOv5."""


def classic_detector(weights: ClassicWeights) -> QuantDetectionModel:
    """Returns the full-precision detector of a classic YOLOv5 file: n to x, version 6.0 or later.

    Raises:
        WeightsError: Another network, which is named; or tensors that do not fit one another.
    """
    stem = weights.tensors.get(_STEM)
    size = _SIZES.get(stem.shape[0]) if stem is not None and stem.shape[1:] == (3, 6, 6) else None
    if size is None or weights.head != "model.24":
        raise WeightsError(
            f"'{weights.path}' is of the YOLOv5 repository, but not YOLOv5 n, s, m, l or x of version 6.0 or later for "
            "colour images: it cannot be run here. Start a training from what fits of it: qreg-yolo train --weights "
            f"{weights.path}"
        )
    names = weights.class_names()
    description = yaml_model_load(f"yolov5{size}.yaml")
    if weights.activation is not None:
        description["activation"] = weights.activation
    spec = QuantSpec(weight_bits=FLOAT_BITS, act_bits=FLOAT_BITS)
    Section(spec=spec, pretrained=True, head=HeadConfig(kind="anchor")).write(description)
    try:
        model = QuantDetectionModel(description, nc=len(names), verbose=False)
    except ModelError as error:
        raise WeightsError(f"'{weights.path}': {error}") from error
    fill(model, weights.for_anchor_head(), weights.path)
    model.names = dict(enumerate(names))
    model.requires_grad_(False)
    return model
