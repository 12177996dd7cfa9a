"""Faults: wrong inputs in large numbers. Each script counts what was tried and what survived, and keeps a record."""
