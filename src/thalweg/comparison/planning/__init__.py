"""The plan of a comparison: budget, measured speed, number of workers, search ranges."""
