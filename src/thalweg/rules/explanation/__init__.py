"""Descriptions and checks that are read off a rule's declarations."""
