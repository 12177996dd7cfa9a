"""Choosing in the wild: small trainings as people write them, their truth, and a judge of methods that choose."""
