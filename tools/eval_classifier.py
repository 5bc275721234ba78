"""Measures a classifier: the same as ``qreg-yolo classify val``; see --help."""

import sys

from qreg_yolo.cli import main

if __name__ == "__main__":
    main(["classify", "val", *sys.argv[1:]])
