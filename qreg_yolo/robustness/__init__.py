"""What the robustness of detectors and that of classifiers have in common: settings, journal, records, summary."""
