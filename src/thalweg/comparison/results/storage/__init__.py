"""The file below a store: how it is opened, what is trusted in it, and how a row is checked."""
