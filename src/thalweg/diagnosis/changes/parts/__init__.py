"""Parts of changes: what a change is, and how optimizers, modules, functions and batches are altered in place."""
