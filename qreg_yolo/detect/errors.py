"""Errors about files that exist and cannot be used."""

from __future__ import annotations


class ModelError(ValueError):
    """A model YAML that does not describe a detector."""
