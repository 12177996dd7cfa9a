"""The statistical procedure: which trials a comparison needs, and what they decide."""
