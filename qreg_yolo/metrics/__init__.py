"""Numbers computed from predictions and from records. No torch."""
