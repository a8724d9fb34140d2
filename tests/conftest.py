"""Every process of the tests, and what it starts, computes in one thread and can be stopped by Ctrl-C."""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded: the nets are small, and other tests share the cores
# Where a shell starts the tests in the background, SIGINT is ignored, and processes hand that on to those they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
