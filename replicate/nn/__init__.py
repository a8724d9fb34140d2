"""Networks of the paper, as plans that `build` turns into modules."""
