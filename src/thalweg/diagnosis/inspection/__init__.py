"""Inspection: what is known of a training before its first step, or from a few steps that are undone."""

from thalweg.diagnosis.inspection.inspect_training import inspect

__all__ = ["inspect"]
