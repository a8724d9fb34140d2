"""What LSUV says when it cannot do its work: an error, or a warning about single layers."""


class LSUVError(ValueError):
    """The model, its batches or a layer cannot be initialised. One line that names the culprit."""


class LSUVWarning(UserWarning):
    """A layer was left as it was, or did not reach unit variance; the text says which, why and what to look at."""
