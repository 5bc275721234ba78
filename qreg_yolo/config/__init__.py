"""Configuration: defaults < recipe < options < ``key=value``, to frozen values. Neither torch nor Ultralytics."""
