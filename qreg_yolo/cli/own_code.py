"""The user's own code, where an option names it."""

from __future__ import annotations

import os
import sys


def find_own_code(model: str) -> None:
    """Lets ``package.module:factory`` be found from the working folder, as ``python -m`` does."""
    if ":" in model and (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
