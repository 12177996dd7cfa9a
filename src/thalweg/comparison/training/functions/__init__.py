"""Training functions: the borders between thalweg and a loop of the user's."""
