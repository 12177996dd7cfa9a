"""Parameters: those that an optimizer accepts, and their bindings to their entries of ``optimizer.state``."""
