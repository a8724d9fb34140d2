"""How fast training is, beside a plain Lightning loop measured in the same call."""
