"""Test cases of every rule and wrapper, each beside an independent reference. Tests and benchmarks share them."""
