"""Trains a quantized classifier: the same as ``qreg-yolo classify train``; see --help."""

import sys

from qreg_yolo.cli import main

if __name__ == "__main__":
    main(["classify", "train", *sys.argv[1:]])
