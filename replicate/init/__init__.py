"""Weight initialisations: those of the paper, for any PyTorch model.

from replicate.init import initialize_, lsuv_
"""

from replicate.init.initialize import initialize_
from replicate.init.lsuv import lsuv_, measure
from replicate.init.report import LayerReport, LSUVError, LSUVWarning, Report
from replicate.names import INITS

__all__ = ["INITS", "LSUVError", "LSUVWarning", "LayerReport", "Report", "initialize_", "lsuv_", "measure"]
