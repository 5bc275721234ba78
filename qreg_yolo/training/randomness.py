"""Random states that follow from the seed and the epoch alone, so that a resumed run draws what a straight one does."""

from __future__ import annotations

import hashlib


def epoch_seed(seed: int, epoch: int) -> int:
    """Returns 63 bits; those of neighbouring seeds and epochs have nothing in common."""
    digest = hashlib.sha256(f"qreg-yolo {seed} {epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
