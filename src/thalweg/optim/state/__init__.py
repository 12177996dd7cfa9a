"""State: the entries of ``optimizer.state``, of one parameter and of the whole model."""
