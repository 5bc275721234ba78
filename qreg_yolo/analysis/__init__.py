"""Tables and figures from records and per-image files alone: no torch, no Ultralytics, no images."""
