"""Judging: replays that settle which cause is true, and whether a cure works on fresh seeds."""
