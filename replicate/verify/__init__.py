"""Checks finished runs: `verify` repeats a sample of them, `score` recomputes them from predictions. No torch here."""
