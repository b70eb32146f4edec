"""Exceptions of the package's own."""


class NotFittedError(ValueError, AttributeError):
    """A method that needs rows was called before ``fit``."""


class FileFormatError(ValueError):
    """A file is not one of resmem, is damaged, or needs a later version."""
