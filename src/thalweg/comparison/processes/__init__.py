"""Worker processes: how they start and end, and what a training may leave behind."""
