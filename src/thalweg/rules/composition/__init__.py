"""Rules made of rules: wrappers around one rule, and composites of several rules."""
