"""Carries out many runs: on the devices of this machine, or by workers on a cluster. Nothing here imports torch."""
