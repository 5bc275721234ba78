"""Validation-loss curves from one or many results.csv: the same as ``qreg-yolo plot curves``; see --help."""

import sys

from qreg_yolo.cli import main

if __name__ == "__main__":
    main(["plot", "curves", *sys.argv[1:]])
