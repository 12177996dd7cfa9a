"""Captured steps: all numbers of a step stay on the device, so that a CUDA graph can replay it."""
