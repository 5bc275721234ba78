"""What can be wrong with measurements that are to be compared."""

from __future__ import annotations

from qreg_yolo.errors import UserError


class AnalysisError(UserError, ValueError):
    """Measurements that cannot be compared or drawn; the text states the fact, the value and the remedy."""
