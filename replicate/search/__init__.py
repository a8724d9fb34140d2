"""Search: chooses settings of runs by their accuracy on validation images."""
