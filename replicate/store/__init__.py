"""Everything below an output folder: who may write, what the files are called, and what they hold. No torch here."""
