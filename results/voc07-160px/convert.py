"""Converts the VOC2007 part of a VOCdevkit to the Ultralytics layout (trainval -> train, test -> val).

    python results/voc07-160px/convert.py DEVKIT OUT

Images are linked. Difficult objects are dropped, as YOLOv5 does. (``qreg-yolo data voc`` will replace this script.)
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import yaml

from qreg_yolo.resources import data_path


def convert(devkit: Path, out: Path) -> Path:
    """Returns the data YAML of the converted set."""
    names = yaml.safe_load(data_path("voc").read_text(encoding="utf-8"))["names"]
    classes = {name: index for index, name in names.items()}
    root = devkit / "VOC2007"
    for split, listed in (("train", "trainval"), ("val", "test")):
        for kind in ("images", "labels"):
            (out / kind / split).mkdir(parents=True, exist_ok=True)
        for stem in (root / "ImageSets" / "Main" / f"{listed}.txt").read_text().split():
            link = out / "images" / split / f"{stem}.jpg"
            link.unlink(missing_ok=True)
            link.symlink_to((root / "JPEGImages" / f"{stem}.jpg").resolve())
            tree = ET.parse(root / "Annotations" / f"{stem}.xml").getroot()
            width, height = (float(tree.findtext(f"size/{side}")) for side in ("width", "height"))
            lines = []
            for item in tree.iter("object"):
                if item.findtext("difficult") == "1":
                    continue
                x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax"))
                x1, y1 = x1 - 1, y1 - 1  # VOC counts pixels from 1
                box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                lines.append(f"{classes[item.findtext('name')]} " + " ".join(f"{value:.6f}" for value in box))
            (out / "labels" / split / f"{stem}.txt").write_text("\n".join(lines) + "\n" if lines else "")
    description = {"path": str(out.resolve()), "train": "images/train", "val": "images/val", "names": names}
    (out / "voc07.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    return out / "voc07.yaml"


if __name__ == "__main__":
    print(convert(Path(sys.argv[1]), Path(sys.argv[2])))
