"""Signs: rules that find causes in a record, by what they look at. Their thresholds are in ``thresholds.py``."""
