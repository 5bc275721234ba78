"""The built-in detection dataset: drawn, never downloaded."""
