"""Diagnosis: why a training fails, and the smallest change that cures it."""
