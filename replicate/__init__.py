"""Reference replication of "All you need is a good init" (Mishkin & Matas, ICLR 2016)."""

__version__ = "0.1.0"
