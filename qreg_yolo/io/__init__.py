"""Files, locks, records, and foreign pickles read as data. Neither torch nor Ultralytics."""
