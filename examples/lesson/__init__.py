"""Parts that the examples of the lesson share: optimizers in NumPy, the same by thalweg, and common mistakes."""
