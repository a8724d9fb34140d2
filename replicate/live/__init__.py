"""What a matrix looks like while it runs: on the terminal it runs in, and from another. Nothing here imports torch."""
