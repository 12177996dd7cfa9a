"""The checks, by subject. Each takes the optimizer under test, raises if it finds a defect, and may return a number."""
