"""The built-in tasks: a function for each that returns a Task."""
