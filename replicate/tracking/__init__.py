"""Weights & Biases: a logger for trainings, uploads with a report job, and a workspace."""
