"""PASCAL VOC: download and conversion to YOLO labels."""
