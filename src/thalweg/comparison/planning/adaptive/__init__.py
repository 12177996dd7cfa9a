"""Adaptive search: one model of all contenders proposes the settings that are trained next."""
