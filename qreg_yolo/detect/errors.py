"""Errors about files that exist and cannot be used."""

from __future__ import annotations


class WeightsError(ValueError):
    """A file that is no usable checkpoint."""


class ModelError(ValueError):
    """A model YAML that does not describe a detector."""
