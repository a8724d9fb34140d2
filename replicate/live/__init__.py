"""Shows a matrix while it runs: in the terminal that started it, and in any other. Nothing here imports torch."""
