"""The speed of training next to a plain Lightning loop, measured in the same call."""
