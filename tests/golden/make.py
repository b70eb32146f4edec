"""Write golden files: those beside it were written once, by the first version with their features.

`python tests/golden/make.py FOLDER` writes such files for another version, to be added under
other names; files that are here are never written again. `python tests/golden/make.py --expect
FOLDER` writes the expected results there anew, where the contract has changed its bits.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import resmem

D, C = 4, 3
KINDS: dict[str, dict[str, Any]] = {
    "dense": {"temperature": 1.5},
    "sparse": {"store": "sparse:2", "key_dtype": "float16", "residual_dtype": "float16"},
    "head": {"store": "head", "key_dtype": "bfloat16", "strength": 0.5},
    "regression": {"task": "regression", "sigma": 0.7},
    "standardize": {"preprocess": "standardize"},
    "whiten": {"preprocess": "whiten:2", "key_dtype": "float16"},
}


def main(folder: Path) -> None:
    """Write a memory of every kind: two segments, rows removed before and after the save."""
    rng = np.random.default_rng(1)
    for name, options in KINDS.items():
        if name == "head":
            options["head"] = (rng.standard_normal((C, D)), rng.standard_normal(C))
        mem = resmem.Memory(k=4, base={"model": "golden", "layer": -1}, **options)

        def rows(n: int, name: str = name) -> tuple[Any, Any, Any]:
            outputs: Any = rng.standard_normal((n, C)).astype(np.float32)
            targets: Any = rng.integers(0, C, n)
            if name == "regression":
                targets = rng.standard_normal((n, C))
            keys = rng.standard_normal((n, D)).astype(np.float32)
            return keys, None if name == "head" else outputs, targets

        path = folder / f"{name}-1.resmem"
        mem.fit(*rows(20)).add(*rows(3), ids=[70, 50, 60]).remove([2, 60]).save(path)
        mem.add(*rows(2)).remove([3, 50]).save(path, append=True)
        queries, outputs, _ = rows(6)
        np.savez(
            path.with_suffix(".npz"),
            queries=queries,
            outputs=np.zeros((6, C)) if outputs is None else outputs,
            corrected=mem.correct(queries, outputs),
            ids=mem.kneighbors(queries)[1],
        )


def expect(folder: Path) -> None:
    """Write the corrections of the memories in a folder anew; they may change by roundings only."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as found:
            arrays = dict(found)
        mem = resmem.Memory.load(path.with_suffix(".resmem"))
        head = mem.store == "head"
        corrected = mem.correct(arrays["queries"], None if head else arrays["outputs"])
        np.testing.assert_allclose(corrected, arrays["corrected"], rtol=0, atol=1e-14)
        np.savez(path, **{**arrays, "corrected": corrected})


if __name__ == "__main__":
    if sys.argv[1] == "--expect":
        expect(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
