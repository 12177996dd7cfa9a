"""Monitoring: what a training does while it runs, at little cost. It needs torch alone."""
