"""The commands, one module each; `suite` is the part of `compare` and `report` that is about several tasks."""
