"""Corrupted sets of any dataset: the same as ``qreg-yolo corrupt``; see --help."""

import sys

from qreg_yolo.cli import main

if __name__ == "__main__":
    main(["corrupt", *sys.argv[1:]])
