"""The generated parts of the handbook: pages of optimizers, of commands, and their pictures."""
