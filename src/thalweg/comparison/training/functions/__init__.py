"""Training functions: the optimizers that they request, and what is learnt of their use."""
