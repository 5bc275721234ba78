"""What the training of detectors and of classifiers has in common: guards, random states, precision, environment."""
