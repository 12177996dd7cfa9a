"""Tables and sentences of the documents, by subject: `python -m benchmarks.tables` writes them."""
