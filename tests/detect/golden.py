"""The golden lists of swapped and skipped layers: ``python tests/detect/golden.py --write`` makes them anew."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from ultralytics.nn.tasks import yaml_model_load

from qreg_yolo.detect import QuantDetectionModel
from qreg_yolo.detect.policy import first_last_layers, float_layers
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.quant import QuantSpec, quantized_layers
from qreg_yolo.quant.convert import ConversionReport, candidate_layers, plan_quantization
from qreg_yolo.quant.spec import FLOAT_BITS, LayerPlan

MODELS = (
    "yolov5n", "yolov5n-anchor", "yolov5s", "yolov5m", "yolov5l", "yolov5x", "yolov8n", "yolo11n", "yolo26n",
)  # fmt: skip
FOLDER = Path(__file__).with_name("golden")


def yaml_and_head(name: str) -> tuple[str, str]:
    """Returns the model YAML and the head of a name such as `yolov5n-anchor`."""
    stem, _, head = name.partition("-")
    return f"{stem}.yaml", head or "anchor_free"


def build_network(name: str, method: str = "lsq") -> QuantDetectionModel:
    """Returns a detector for four classes at 4 bits, not yet calibrated."""
    yaml, head = yaml_and_head(name)
    cfg = yaml_model_load(yaml)
    QuantizationConfig.from_request({"bits": 4, "method": method, "head": head}, pretrained=False).write(cfg)
    return QuantDetectionModel(cfg, nc=4, verbose=False)


def table(model: QuantDetectionModel) -> str:
    """Returns one line per convolution: its place, bits of weight/input by method, and why it is not quantized.

    The column ``lsq`` is what stands in ``model``, the column ``pact`` what the policy plans for it.
    """
    pact = plan_quantization(
        model,
        QuantSpec(method="pact", weight_bits=4, act_bits=4),
        first_last_layers=first_last_layers(model),
        keep_float=float_layers(model),
    )
    return "\n".join([f"{'layer':32}{'place':7}{'lsq':7}{'pact':7}not quantized because", *_lines(model, pact)]) + "\n"


def _lines(model: QuantDetectionModel, pact: ConversionReport) -> Iterator[str]:
    section = QuantizationConfig.read(model.yaml)
    assert section is not None
    edges, layers = first_last_layers(model), quantized_layers(model)
    for name, _, _, _ in candidate_layers(model):
        place = "edge" if name in edges else "inner"
        lsq = _widths(layers[name].plan if name in layers else None)
        reasons = {section.skipped.get(name, ""), pact.skipped.get(name, "")} - {""}
        yield f"{name:32}{place:7}{lsq:7}{_widths(pact.swapped.get(name)):7}{' | '.join(sorted(reasons))}".rstrip()


def _widths(plan: LayerPlan | None) -> str:
    sides = (plan.weight, plan.input) if plan else (None, None)
    return "/".join(str(side.bits if side else FLOAT_BITS) for side in sides)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("Usage: python tests/detect/golden.py --write")
    for model_name in MODELS:
        (FOLDER / f"{model_name}.txt").write_text(table(build_network(model_name)), encoding="utf-8")
