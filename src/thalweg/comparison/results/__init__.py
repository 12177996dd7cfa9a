"""Stored results, and the statements that follow from them: summaries, verdict, cautions."""
