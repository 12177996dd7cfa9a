"""Judging: what diagnoses and published rules say of the trainings, and whether it is right."""
