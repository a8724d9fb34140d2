"""Data: where images come from, how they are prepared, and the batches that a run sees."""
