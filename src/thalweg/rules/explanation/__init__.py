"""Descriptions of rules and checks of their settings, both derived from the declarations of the rules."""
