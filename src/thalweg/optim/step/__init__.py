"""A step: prepared, planned on a backend, and taken by one thread at a time."""
