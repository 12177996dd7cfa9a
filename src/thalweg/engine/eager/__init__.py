"""Backends in plain PyTorch. `loop` is the reference that every other backend must equal."""
