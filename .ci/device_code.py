"""Judges the machine code of all kernels in an extension that was built for devices of CUDA.

    device_code.py EXTENSION [--write]

It finds the kernels by itself, for every architecture, and refuses three things.

1. **Fused operations.** The contract rounds every product and every sum, so no DFMA or FFMA may
   come from a kernel's own arithmetic. But nvcc makes divisions and square roots of them: a fast
   path in the kernel, and a routine that is called where that path does not serve. How many fused
   operations the fast path of each routine has is counted in kernels of one division or root
   (`PROBES`). A kernel must have exactly as many as its calls of these routines explain. That the
   rule finds a planted `fma()` and a contracted sum is tried at each run.
2. **A filter without its instructions**: IMMA multiplies matrices of bytes, LDSM loads their tiles,
   and LDGSTS copies to shared memory without a register. The names of kernels tell which they need.
3. **Another table** than `cuda/registers.txt`, which holds what every kernel takes of a device,
   and how many of its blocks share a multiprocessor. How a kernel is launched is written there by
   hand, in constants of `cuda/*.cuh` or in numbers.

nvcc, cuobjdump, nvdisasm and c++filt are on the PATH.
"""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

CUDA = Path(__file__).parent.parent / "cuda"
TABLE = CUDA / "registers.txt"

FUSED = ("DFMA", "FFMA")
# What kernels must have whose name begins so.
INSTRUCTIONS = {"filter_": {"IMMA", "LDSM", "LDGSTS"}, "stream_": {"IMMA"}}
LOCAL = ("LDL", "STL")  # reads and writes of local memory, which is where spilled registers go

PROBES = """
__global__ void double_division(double* x) { x[0] = x[1] / x[2]; }
__global__ void double_reciprocal(double* x) { x[0] = 1 / x[1]; }
__global__ void double_root(double* x) { x[0] = sqrt(x[1]); }
__global__ void float_division(float* x) { x[0] = x[1] / x[2]; }
__global__ void float_reciprocal(float* x) { x[0] = 1 / x[1]; }
__global__ void float_root(float* x) { x[0] = sqrtf(x[1]); }
"""
PLANTED = """
__global__ void fused(double* x) { x[0] = fma(x[1], x[2], x[3]); }
__global__ void fused_float(float* x) { x[0] = fmaf(x[1], x[2], x[3]); }
__global__ void fused_beside_a_division(double* x) {
  x[0] = x[1] / x[2];
  x[3] = fma(x[4], x[5], x[6]);
}
"""
CONTRACTED = """
__global__ void contracted(double* x) { x[0] = x[1] * x[2] + x[3]; }
__global__ void contracted_float(float* x) { x[0] = x[1] * x[2] + x[3]; }
__global__ void contracted_beside_a_root(double* x) { x[0] = sqrt(x[1]) * x[2] + x[3]; }
"""


@dataclass(frozen=True)
class Multiprocessor:
    """What blocks share (CUDA C++ Programming Guide, "Compute Capabilities"); `shared` is in bytes.

    Registers are given to a warp by 256, and to warps by four. A block takes shared memory for the
    system beside its own, `RESERVED` bytes.
    """

    threads: int
    blocks: int
    shared: int
    registers: int = 65536

    def blocks_of(self, threads: int, registers: int, shared: int) -> int:
        """Return how many blocks are there at once, of `threads` with `registers` each."""
        warps = -(-threads // 32)
        of_a_warp = -(-registers * 32 // 256) * 256
        by_registers = self.registers // of_a_warp // 4 * 4 // (-(-warps // 4) * 4)
        by_shared = self.shared // (-(-shared // 128) * 128 + RESERVED)
        return min(self.blocks, self.threads // (warps * 32), by_registers, by_shared)


RESERVED = 1024
MULTIPROCESSORS = {
    80: Multiprocessor(threads=2048, blocks=32, shared=164 << 10),
    90: Multiprocessor(threads=2048, blocks=32, shared=228 << 10),
    100: Multiprocessor(threads=2048, blocks=32, shared=228 << 10),
    120: Multiprocessor(threads=1536, blocks=24, shared=100 << 10),
}


@dataclass
class Kernel:
    """The machine code of a kernel for one architecture: how often each instruction comes."""

    mangled: str
    name: str = ""
    own: Counter[str] = field(default_factory=Counter)  # without CUDA's routines
    routines: Counter[str] = field(default_factory=Counter)  # of CUDA, all of them
    calls: Counter[str] = field(default_factory=Counter)  # of routines, by their name
    registers: int = 0
    stack: int = 0  # bytes, of each thread
    shared: int = 0  # bytes, without what is dynamic and without the system's

    def spills(self) -> int:
        return sum((self.own + self.routines)[name] for name in LOCAL)


def output(*command: object, given: str | None = None) -> str:
    text = list(map(str, command))
    done = subprocess.run(text, input=given, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(text)}\n{done.stdout}{done.stderr}")
    return done.stdout


def kernels_in(cubin: Path, architecture: int) -> list[Kernel]:
    """Return the kernels of a file that holds the machine code for one architecture."""
    found: dict[str, Kernel] = {}
    counts = kernel = None
    for line in output("nvdisasm", "-c", cubin).splitlines():
        if section := re.match(r"\s*\.section\s+\.text\.([^,]+),", line):
            kernel = found[section[1]] = Kernel(section[1])
            counts = kernel.own
        elif label := re.match(r"([^\s.].*):$", line):
            assert kernel is not None
            counts = kernel.routines if routine_of(label[1]) else kernel.own
        elif code := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)(.*)", line):
            assert kernel is not None
            assert counts is not None
            counts[code[1].split(".")[0]] += 1
            target = re.search(r"`\((.*)\)", code[2])
            if counts is kernel.own and code[1].startswith("CALL") and target:
                kernel.calls[routine_of(target[1])] += 1
    add_resources(cubin, architecture, found)
    names = output("c++filt", given="\n".join(found)).splitlines()
    for kernel, name in zip(found.values(), names, strict=True):
        kernel.name = without_scopes(name)
    return list(found.values())


def without_scopes(name: str) -> str:
    """Return the name of a kernel with its template's arguments, but no others and no namespace."""
    depth = 0
    for at in reversed(range(len(name))):  # to where the list of parameters begins
        depth += (name[at] == ")") - (name[at] == "(")
        if depth == 0:
            break
    scopes = r"^void |(?:\w+|\(anonymous namespace\))::|\s"
    return re.sub(scopes, "", name[:at])


def routine_of(label: str) -> str:
    """Return the name of a routine of CUDA without its number in the file, or nothing."""
    match = re.fullmatch(r"\$__internal_\d+_\$(\w+)", label)
    return match[1] if match else ""


def add_resources(cubin: Path, architecture: int, kernels: dict[str, Kernel]) -> None:
    text = output("cuobjdump", "-res-usage", cubin)
    pattern = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)"
    for name, registers, stack, shared, local in re.findall(pattern, text):
        kernel = kernels[name]
        kernel.registers, kernel.stack = int(registers), int(stack) + int(local)
        # From 9.0 on the system's part is counted.
        kernel.shared = int(shared) - (RESERVED if architecture >= 90 else 0)


def compiled(source: str, architecture: int, *options: str) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        file, cubin = Path(folder) / "probe.cu", Path(folder) / "probe.cubin"
        file.write_text(source, encoding="utf-8")
        output("nvcc", f"-arch=sm_{architecture}", *options, "-cubin", file, "-o", cubin)
        return kernels_in(cubin, architecture)


# ---- fused operations ----------------------------------------------------------------------------

Explained = dict[str, Counter[str]]  # fused operations that go with a call of a routine


def explained_by_calls(architecture: int) -> Explained:
    found = {}
    for probe in compiled(PROBES, architecture, "-fmad=false"):
        (routine,) = probe.calls
        assert probe.calls[routine] == 1, probe.mangled
        found[routine] = Counter({name: probe.own[name] for name in FUSED})
    return found


def unexplained(kernel: Kernel, explained: Explained) -> list[str]:
    """Return the fused operations of a kernel that its divisions and roots do not explain."""
    expected: Counter[str] = Counter()
    for routine, calls in kernel.calls.items():
        for name, count in explained.get(routine, Counter()).items():
            expected[name] += calls * count
    return [
        f"{kernel.own[name]} {name}, of which divisions and roots explain {expected[name]}"
        for name in FUSED
        if kernel.own[name] != expected[name]
    ]


def try_the_rule(architecture: int, explained: Explained) -> None:
    for source, fmad in ((PLANTED, "false"), (CONTRACTED, "true")):
        for kernel in compiled(source, architecture, f"-fmad={fmad}"):
            assert unexplained(kernel, explained), f"not found: {kernel.name}"
    for kernel in compiled(PROBES + CONTRACTED, architecture, "-fmad=false"):
        assert not unexplained(kernel, explained), f"found without reason: {kernel.name}"


def lacking(kernel: Kernel) -> list[str]:
    """Return the instructions that a kernel of this name must have and has not."""
    needed = (names for start, names in INSTRUCTIONS.items() if kernel.name.startswith(start))
    return [f"no {name}" for names in needed for name in sorted(names - set(kernel.own))]


# ---- the table -----------------------------------------------------------------------------------

Launch = tuple[str, str]  # threads of a block, and bytes of its dynamic shared memory
NEW: Launch = ("128", "0")
COLUMNS = "threads shared static registers stack spills blocks"


def nvcc_version() -> str:
    match = re.search(r"V(\d+\.\d+\.\d+)", output("nvcc", "--version"))
    assert match
    return match[1]


def launches() -> dict[str, Launch]:
    """Return how kernels are launched, as the table has it."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return {row[0]: (row[1], row[2]) for row in rows}


def values_of(expressions: list[str]) -> dict[str, int]:
    """Return what constants of the kernels' headers are."""
    source = "".join(f'#include "{path}"\n' for path in sorted(CUDA.glob("*.cuh")))
    source += "#include <cstdio>\nint main() { using namespace resmem::device;\n"
    for text in expressions:
        source += f'std::printf("%zu\\n", static_cast<std::size_t>({text}));\n'
    with tempfile.TemporaryDirectory() as folder:
        file, program = Path(folder) / "constants.cu", Path(folder) / "constants"
        file.write_text(source + "}\n", encoding="utf-8")
        output("nvcc", "-std=c++17", "-arch=sm_80", file, "-o", program)
        return dict(zip(expressions, map(int, output(program).split()), strict=True))


def table_of(kernels: dict[int, list[Kernel]]) -> str:
    known = launches()
    names = sorted({kernel.name for each in kernels.values() for kernel in each})
    launched = {name: known.get(name, NEW) for name in names}
    values = values_of(sorted({text for launch in launched.values() for text in launch}))
    rows = [["# kernel", *COLUMNS.split()]]
    rows += [row_of(name, kernels, launched[name], values) for name in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    architectures = "/".join(map(str, sorted(kernels)))
    head = HEAD.format(version=nvcc_version(), architectures=architectures)
    return head + "\n".join(lines) + "\n"


HEAD = """\
# What every kernel takes of a device, compiled by nvcc {version}: bytes of shared memory that is
# static, registers of a thread, bytes of stack, reads and writes of spilled registers; and how many
# blocks are on a multiprocessor at once. Where architectures differ: {architectures}.
#
# `.ci/cuda PYTHON --write` writes this file. By hand come only `threads` of a block and its dynamic
# `shared` memory in bytes: constants of cuda/*.cuh, or numbers.
"""


def row_of(
    name: str, kernels: dict[int, list[Kernel]], launch: Launch, values: dict[str, int]
) -> list[str]:
    threads, shared = (values[text] for text in launch)
    measured = []
    for architecture, each in sorted(kernels.items()):
        # Several files may have one instance of a template: it is the same in all.
        kernel = next(kernel for kernel in each if kernel.name == name)
        blocks = MULTIPROCESSORS[architecture].blocks_of(
            threads, kernel.registers, shared + kernel.shared
        )
        measured.append((kernel.shared, kernel.registers, kernel.stack, kernel.spills(), blocks))
    columns = (list(map(str, column)) for column in zip(*measured, strict=True))
    return [name, *launch, *("/".join(c if len(set(c)) > 1 else c[:1]) for c in columns)]


# ---- all of it -----------------------------------------------------------------------------------


def kernels_of(extension: Path) -> dict[int, list[Kernel]]:
    """Return the kernels for each architecture that the extension has code for."""
    kernels: dict[int, list[Kernel]] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = ["cuobjdump", "-xelf", "all", str(extension.resolve())]
        subprocess.run(command, cwd=folder, capture_output=True, check=True)
        for cubin in sorted(Path(folder).iterdir()):
            (architecture,) = map(int, re.findall(r"\.sm_(\d+)\.cubin$", cubin.name))
            kernels.setdefault(architecture, []).extend(kernels_in(cubin, architecture))
    return kernels


def complaints(kernels: dict[int, list[Kernel]]) -> list[str]:
    found = []
    if set(kernels) != set(MULTIPROCESSORS):
        found.append(f"there is code for {sorted(kernels)}, not for {sorted(MULTIPROCESSORS)}")
    for architecture, each in sorted(kernels.items()):
        explained = explained_by_calls(architecture)
        try_the_rule(architecture, explained)
        for kernel in each:
            why = unexplained(kernel, explained) + lacking(kernel)
            found += [f"{kernel.name} for sm_{architecture} has {text}" for text in why]
        for start in INSTRUCTIONS:
            if not any(kernel.name.startswith(start) for kernel in each):
                found.append(f"sm_{architecture} has no kernel whose name begins with {start}")
    return found


def difference(table: str) -> list[str]:
    """Return in which lines the table is not the committed one, if one compiler wrote both."""
    committed = TABLE.read_text(encoding="utf-8") if TABLE.exists() else ""
    if committed and f"nvcc {nvcc_version()}" not in committed:
        print(f"SKIPPED: {TABLE.name} is of another compiler than nvcc {nvcc_version()}")
        return []
    lines = (text.splitlines() for text in (committed, table))
    return list(difflib.unified_diff(*lines, "committed", "compiled", lineterm=""))


def main(extension: str, *options: str) -> int:
    kernels = kernels_of(Path(extension))
    table = table_of(kernels)
    print(table)
    found = complaints(kernels)
    if options == ("--write",):
        TABLE.write_text(table, encoding="utf-8")
    elif lines := difference(table):
        found += [*lines, f"{TABLE.name} is not what was compiled: .ci/cuda PYTHON --write"]
    print("\n".join(found) or f"{sum(map(len, kernels.values()))} kernels are as they must be")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
