"""Results and progress for people: tables, descriptions, a live display, logs."""
