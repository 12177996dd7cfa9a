"""Changes of the layers of a model and of how their weights begin."""
