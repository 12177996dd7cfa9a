"""The compiled backend: a rule is recorded, cut into passes, printed as C and compiled."""
