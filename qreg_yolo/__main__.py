"""``python -m qreg_yolo``: the same as the command ``qreg-yolo``."""

from qreg_yolo.cli import main

if __name__ == "__main__":
    main()
