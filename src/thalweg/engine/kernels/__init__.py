"""The compiled backend: a rule is recorded, cut into passes, printed as C, compiled, and tried against the loop."""
