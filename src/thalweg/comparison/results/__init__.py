"""Stored results, and what is said of them: summaries, verdict, cautions."""
