"""Verification: a sample of finished runs, run again and compared with their records. Nothing here imports torch."""
