"""The versions of everything that runs: what a bug report starts with."""

from __future__ import annotations

import platform
import sys

import numpy as np

import resmem._core as _core
from resmem._base.platform import processor_name


def show_versions() -> None:
    """Print the versions of resmem and what it runs on, its kernels and its threads."""
    isas = _core.available_isas()
    build = _core.build_info()
    lines = {
        "resmem": _core.__version__,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": processor_name() or platform.machine(),
        "kernels": _core.selected_isa(),
        "available": ", ".join(f"{n} (emulated)" if e else n for n, e in isas.items()),
        "threads": str(_core.default_threads()),
        "compiler": build["compiler"],
        "pybind11": build["pybind11"],
    }
    for name, value in lines.items():
        print(f"{name:>10}: {value}")
