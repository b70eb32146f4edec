"""The package's own exceptions and warnings."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from pathlib import Path

# Files whose frames are not the caller's: the package's own, and the standard library's for the
# package's decorators.
_INTERNAL_FILES = (
    str(Path(__file__).resolve().parents[1]) + os.sep,
    contextlib.contextmanager.__code__.co_filename,
)


class NotFittedError(ValueError, AttributeError):
    """A method that needs rows was called before ``fit``."""


class FileFormatError(ValueError):
    """A file is not one of resmem, is damaged, or needs a later version."""


class DeviceError(RuntimeError):
    """A CUDA device, its driver or its extension is missing, or fails at what it is asked."""


class ResmemWarning(UserWarning):
    """The data seem to mean something else, or lose precision; the message names the fix."""


def warn(text: str, category: type[Warning] = ResmemWarning) -> None:
    """Issue a warning at the line of the caller's code that called the package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INTERNAL_FILES):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
