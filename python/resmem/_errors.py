"""Exceptions of the package's own."""


class NotFittedError(ValueError, AttributeError):
    """A method that needs rows was called before ``fit``."""
