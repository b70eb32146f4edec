"""The versions of everything that runs: what a bug report starts with."""

from __future__ import annotations

import platform
import sys

import numpy as np

import resmem._core as _core


def show_versions() -> None:
    """Print the versions of resmem and what it runs on, its kernels and its threads."""
    isas = _core.available_isas()
    build = _core.build_info()
    lines = {
        "resmem": _core.__version__,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "kernels": _core.selected_isa(),
        "available": ", ".join(f"{n} (emulated)" if e else n for n, e in isas.items()),
        "threads": str(_core.default_threads()),
        "compiler": build["compiler"],
        "pybind11": build["pybind11"],
    }
    for name, value in lines.items():
        print(f"{name:>10}: {value}")


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()
