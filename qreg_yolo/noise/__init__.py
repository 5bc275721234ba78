"""The noise study: quantization as weight noise (Theorem 3.1 of the paper)."""
