"""Training one run: from settings to a Result."""
