"""References: transcriptions of the papers, written apart from the rules."""
