"""What rules are written with: `rule` is the first to read, then `hyper`, `reductions` and `wrapper`."""
