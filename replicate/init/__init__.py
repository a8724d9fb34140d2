"""Weight initialisations of the paper, for the networks here and for anybody's own.

from replicate.init import initialize_, lsuv_
"""

from replicate.init.errors import LSUVError, LSUVWarning
from replicate.init.lsuv import lsuv_
from replicate.init.registry import INITS, initialize_
from replicate.init.report import LayerReport, Report

__all__ = ["INITS", "LSUVError", "LSUVWarning", "LayerReport", "Report", "initialize_", "lsuv_"]
