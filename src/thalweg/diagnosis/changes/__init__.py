"""Changes: one thing of a training made different, to find a cause by replay and to cure it."""
