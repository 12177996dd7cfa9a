"""Trainings: architectures that work, faults of them with their cures, and healthy trainings that look odd."""
