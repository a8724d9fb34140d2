"""Weight initialisations of the paper, for the networks here and for anybody's own.

from replicate.init import initialize_, lsuv_
"""

from replicate.init.lsuv import lsuv_
from replicate.init.registry import INITS, initialize_

__all__ = ["INITS", "initialize_", "lsuv_"]
