"""What a classifier's checkpoint is made of: per-layer report, size and bit-operations."""

from __future__ import annotations

from pathlib import Path

from qreg_yolo.classify.checkpoint import load_classifier
from qreg_yolo.classify.network import PROBE_SIDE, probe
from qreg_yolo.quant.inspection import Inspection, one_thread
from qreg_yolo.quant.report import count_macs, layer_reports, model_size


def inspect_classifier(path: Path, model: str | None = None) -> Inspection:
    """Returns what a classifier's checkpoint is made of; MACs per image of 32 pixels.

    Args:
        path: A file of `save_classifier`.
        model: As in `load_classifier`.

    Raises:
        FileNotFoundError, WeightsError, ConfigError: As `load_classifier`.
    """
    with one_thread():
        network, description, _ = load_classifier(path, model)
        pair = count_macs(network, lambda: probe(network))
        macs = {name: count // 2 for name, count in pair.items()}  # `probe` runs two images
        return Inspection(
            weights=str(path),
            label=description.spec.label,
            imgsz=PROBE_SIDE,
            layers=layer_reports(network, macs),
            size=model_size(network),
        )
