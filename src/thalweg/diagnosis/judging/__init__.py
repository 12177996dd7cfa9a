"""Judging: which changes to replay, which cause they show, and whether the cure holds on fresh seeds."""
