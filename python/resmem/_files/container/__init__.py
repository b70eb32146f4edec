"""The file format: a JSON object ``meta`` and named arrays, published whole or not at all.

FORMAT.md, two folders above, describes every byte. ``layout.py`` has its constants and what files
are made of, ``manifest.py`` the JSON that lists sections, ``checksums.py`` the checksums of what
they hold; ``read.py`` and ``write.py`` load, save and append. Checksums and I/O run in parallel
without the GIL, and pages of mapped files are released once they are read or written.
"""

from __future__ import annotations

from resmem._files.container.layout import Loaded, Pieces, Section, Version
from resmem._files.container.read import bytes_to_verify, is_container, load
from resmem._files.container.write import append, save

__all__ = [
    "Loaded",
    "Pieces",
    "Section",
    "Version",
    "append",
    "bytes_to_verify",
    "is_container",
    "load",
    "save",
]
