"""Training runs: one model, a population of models, or a user's training function."""
