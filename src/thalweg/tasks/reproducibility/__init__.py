"""Reproducibility: one seed for all random numbers, and nothing of a training reaches the next."""
