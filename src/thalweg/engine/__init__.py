"""The engine: the backends that run a rule. It contains no formula."""
