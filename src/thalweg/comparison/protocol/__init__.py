"""The statistical procedure: which trials a comparison needs, and what their scores decide. Pure functions."""
