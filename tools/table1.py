"""Table 1 with Eq. 5, from any records.csv: the same as ``qreg-yolo table``; see --help."""

import sys

from qreg_yolo.cli import main

if __name__ == "__main__":
    main(["table", *sys.argv[1:]])
