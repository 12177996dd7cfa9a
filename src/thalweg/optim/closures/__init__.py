"""Closures: steps that evaluate the loss several times, and the line search (L-BFGS)."""
