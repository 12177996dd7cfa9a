"""Choosing in the wild: small trainings as people write them, each with its truth, and a judge of methods that choose."""
