"""The parts of the measurement of classifiers under corruptions; `classify.robustness` puts them together."""
