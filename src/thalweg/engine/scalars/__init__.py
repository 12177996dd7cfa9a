"""The scalars of a step as expressions, so that they can be computed on a device."""
