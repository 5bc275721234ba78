"""Writes the table of docs/ultralytics_arguments.md anew: ``python -m tools.ultralytics_arguments``."""

from pathlib import Path

from qreg_yolo.config.ultralytics_arguments import table

PAGE = Path(__file__).parent.parent / "docs" / "ultralytics_arguments.md"


def page(text: str) -> str:
    """Returns the page with the table of the code; it is the last thing on it."""
    return text.partition("| argument |")[0] + table() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
