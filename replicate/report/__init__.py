"""From results to numbers, and from numbers to tables and figures."""
