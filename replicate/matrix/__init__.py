"""Many runs: what is left to do, on what, and how far it is. Nothing here imports torch."""
