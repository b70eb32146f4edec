"""The tables at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from arena import Outcome, Result

MIB = 1 << 20


def header(
    info: dict[str, Any],
    blas: str,
    pools: dict[str, list[dict[str, Any]]],
    absent: dict[str, str],
) -> list[str]:
    """Return lines on the machine, the versions and the missing contenders."""
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    kernels = ", ".join(sorted({kernel(pool) for found in pools.values() for pool in found} - {""}))
    return [
        f"{info['processor']}, {info['cores']} cores, {' '.join(info['flags'])}",
        f"{blas}; load average at the start {info['load']:.2f}",
        versions,
        f"BLAS in use: {kernels}; faiss compiled with {info['faiss']}",
        info["resmem"],
        *(f"{name} {why}" for name, why in absent.items()),
    ]


def kernel(pool: dict[str, Any]) -> str:
    """Return a BLAS build and the kernels it chose."""
    if pool["user_api"] != "blas":
        return ""
    return f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}"


def tables(outcomes: Iterable[Outcome]) -> list[str]:
    """Return one table per case; the batch sizes of a sweep share one."""
    lines: list[str] = []
    sweeps: dict[tuple[str, int], list[Outcome]] = {}
    for outcome in outcomes:
        case = outcome.case
        if case.kind == "sweep":
            sweeps.setdefault((case.shape.name, case.threads), []).append(outcome)
        else:
            lines += ["", f"{case}   {conditions(outcome)}", *case_table(outcome)]
    for group in sweeps.values():
        lines += ["", *sweep_table(group)]
    return lines


def conditions(outcome: Outcome) -> str:
    """Return the machine's peak and its other load."""
    return f"{outcome.peak}; other load {outcome.others:.2f} cores"


def case_table(outcome: Outcome) -> list[str]:
    """Return the table of one case, with all contenders."""
    columns, row = {
        "search": (("GFLOP/s", "of peak", "recall"), search_row),
        "single": (("GB/s", "of peak", "recall"), single_row),
        "aggregate": (("GB/s gathered", "of peak", "error"), aggregate_row),
        "correct": (("GFLOP/s", "extra MiB", "error"), correct_row),
    }[outcome.case.kind]
    first = outcome.results["resmem"]
    lines: list[tuple[str, ...]] = [("", "median", "min .. max", *columns, "time / resmem")]
    for result in outcome.results.values():
        if result.absent:
            lines.append((result.label, result.absent.split(":")[0], "", "", "", "", ""))
            continue
        ratio = f"{result.median / first.median:.2f}" if first.timings else "-"
        spread = f"{clock(min(result.seconds))} .. {clock(max(result.seconds))}"
        lines.append((result.label, clock(result.median), spread, *row(outcome, result), ratio))
    return aligned(lines)


def search_row(outcome: Outcome, result: Result) -> tuple[str, str, str]:
    """Return operations per second, their share of the peak, and the recall."""
    rate = gflops(result)
    return f"{rate:.1f}", f"{rate / outcome.peak.gflops:.0%}", correctness(result)


def single_row(outcome: Outcome, result: Result) -> tuple[str, str, str]:
    """Return row bytes per second, their share of the memory bandwidth, and the recall."""
    rate = result.case.shape.rows * result.case.shape.dim * 4 / result.median / 1e9
    return f"{rate:.1f}", f"{rate / outcome.peak.gbytes:.0%}", correctness(result)


def aggregate_row(outcome: Outcome, result: Result) -> tuple[str, str, str]:
    """Return gathered bytes per second, their share of the bandwidth, and the error."""
    case = result.case
    rate = case.queries * case.k * case.shape.classes * 4 / result.median / 1e9
    return f"{rate:.1f}", f"{rate / outcome.peak.gbytes:.0%}", correctness(result)


def correct_row(outcome: Outcome, result: Result) -> tuple[str, str, str]:
    """Return the search's operations per second, extra memory, and the error."""
    return f"{gflops(result):.1f}", f"{result.extra_bytes / MIB:.0f}", correctness(result)


def gflops(result: Result) -> float:
    """Return 2 q n d / seconds / 1e9, whatever was really computed."""
    case = result.case
    return 2 * case.queries * case.shape.rows * case.shape.dim / result.median / 1e9


def correctness(result: Result) -> str:
    """Return "exact" if all bits agree, else the recall or the error."""
    if result.exact:
        return "exact"
    return f"{result.error:.0e}" if result.recall is None else f"{result.recall:.5f}"


def sweep_table(outcomes: Sequence[Outcome]) -> list[str]:
    """Return milliseconds per query, contenders by batch sizes."""
    case = outcomes[0].case
    lines: list[tuple[str, ...]] = [
        ("ms per query, by q", *(f"{outcome.case.queries:,}" for outcome in outcomes))
    ]
    for label in outcomes[0].results:
        found = [outcome.results[label] for outcome in outcomes]
        lines.append((label, *(r.absent.split(":")[0] or per_query(r) for r in found)))
    title = f"sweep  {case.shape} k={case.k} threads={case.threads}   {conditions(outcomes[-1])}"
    return [title, *aligned(lines)]


def per_query(result: Result) -> str:
    """Return milliseconds per query."""
    return f"{result.median / result.case.queries * 1e3:.3f}"


def clock(seconds: float) -> str:
    """Return a time in seconds, or in milliseconds if short."""
    return f"{seconds:.3f} s" if seconds >= 0.1 else f"{seconds * 1e3:.2f} ms"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with aligned columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
