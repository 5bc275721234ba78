"""Corrupted datasets on disk."""
