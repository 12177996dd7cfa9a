"""Checks of a verdict: facts of the stored trainings that forbid or soften it."""
