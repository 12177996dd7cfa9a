"""Changes of the data."""
