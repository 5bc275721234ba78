"""Squares of quantized - fp32, from any records.csv: the same as ``qreg-yolo plot heatmap``; see --help."""

import sys

from qreg_yolo.cli import main

if __name__ == "__main__":
    main(["plot", "heatmap", *sys.argv[1:]])
