"""Corrupted data sets on disk: which images a source has, what each becomes, and how they are written."""
