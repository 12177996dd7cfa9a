"""Settings: those of a rule as the keywords, groups and signatures of ``torch.optim``."""
