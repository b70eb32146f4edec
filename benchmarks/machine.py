"""The machine and its peak performance, to which every figure is compared."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from data import CACHE

PROBE = Path(__file__).with_name("probe.cpp")
COMPILE = ["g++", "-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-pthread"]
PACKAGES = (
    "numpy",
    "faiss-cpu",
    "scann",
    "scikit-learn",
    "scikit-learn-intelex",
    "torch",
    "pytest-benchmark",
)
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "sve")
BLAS_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # these choose slower kernels


@dataclass(frozen=True)
class Peak:
    """The peak rates of float32 multiply-adds and memory reads, all threads together."""

    gflops: float
    gbytes: float

    def __str__(self) -> str:
        return f"peak {self.gflops:.0f} GFLOP/s, {self.gbytes:.1f} GB/s"


def busy_seconds() -> float:
    """Return the processor seconds used so far on this machine, or taken from it."""
    user, nice, system, _, _, *rest = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    return sum(map(int, (user, nice, system, *rest))) / os.sysconf("SC_CLK_TCK")


@cache
def probe_program() -> Path:
    """Compile the probe and return its path."""
    CACHE.mkdir(exist_ok=True)
    program = Path(tempfile.mkdtemp(dir=CACHE)) / "probe"
    subprocess.run([*COMPILE, str(PROBE), "-o", str(program)], check=True)
    return program


def probe(threads: int) -> Peak:
    """Measure the peak now."""
    output = subprocess.check_output([probe_program(), str(threads)], text=True)
    gflops, gbytes = map(float, output.split())
    return Peak(gflops, gbytes)


def unset_blas_variables() -> str:
    """Unset variables that slow OpenBLAS down; return a text on what was unset."""
    found = [name for name in BLAS_VARIABLES if os.environ.pop(name, None) is not None]
    names = " and ".join(BLAS_VARIABLES)
    return f"unset for this run: {' and '.join(found)}" if found else f"{names} are not set"


def processor() -> tuple[str, list[str]]:
    """Return the name and the flags of the processor."""
    info = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line
    )
    fields = {key.strip(): value.strip() for key, value in info.items()}
    flags = fields.get("flags", fields.get("Features", "")).split()
    return fields.get("model name", "unknown"), flags


def describe() -> dict[str, Any]:
    """Return processor, flags and versions."""
    name, flags = processor()
    return {
        "processor": name,
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in FLAGS if flag in flags],
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in PACKAGES},
        "faiss": faiss_options(),
        "resmem": resmem_versions(),
    }


def version(package: str) -> str:
    """Return the installed version of ``package``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def faiss_options() -> str:
    """Return the compile options of faiss."""
    return subprocess_output("import faiss; print(faiss.get_compile_options())") or "missing"


def resmem_versions() -> str:
    """Return resmem's versions and kernels."""
    lines = subprocess_output("import resmem; print(resmem.show_versions() or '')").splitlines()
    return "; ".join(" ".join(line.split()) for line in lines if line.strip()) or "resmem: missing"


def subprocess_output(program: str) -> str:
    """Run Python code in its own process; return its output, or nothing if it fails."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
