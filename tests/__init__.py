"""The tests; their folders mirror the package."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The checkout."""
TINY = str(Path(__file__).with_name("tiny.yaml"))
"""A model YAML for tests that train: seconds instead of those of YOLOv5n, whose structure has tests of its own."""
