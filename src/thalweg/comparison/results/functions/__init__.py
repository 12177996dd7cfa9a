"""Training functions in results: the lines that use their optimizers, and the settings that they replace."""
