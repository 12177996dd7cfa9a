"""The optimizers in a comparison: their settings, search ranges and schedules."""
