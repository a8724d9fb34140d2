"""Sanity checks of the code and the data of an experiment, before a long matrix."""
