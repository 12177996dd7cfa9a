"""Probes: what measures a model and its optimizers during a step, without waiting for a device."""
