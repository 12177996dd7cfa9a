"""Tables and sentences of the documents, by subject: `python benchmarks/table.py` writes them."""
