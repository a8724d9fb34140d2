"""What this machine has, and what of it works."""
