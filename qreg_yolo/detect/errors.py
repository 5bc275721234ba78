"""Errors about files that exist and cannot be used."""

from __future__ import annotations

from qreg_yolo.errors import UserError


class ModelError(UserError, ValueError):
    """A model YAML that does not describe a detector."""
