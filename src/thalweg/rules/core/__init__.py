"""The interface of a rule. Read `rule` first, then `hyper`, `state` and `reductions`."""
