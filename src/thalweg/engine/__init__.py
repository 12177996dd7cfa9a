"""Engine: the ways to run a rule. No formula lives here."""
