"""A fuzz target for memories in files: any bytes are refused with FileFormatError, or answer.

What is accepted can be saved, continued and exported, and the files load again.

`python tests/fuzz/fuzz_memory.py CORPUS [libFuzzer options]` needs atheris; see README.md. A file
may hold nonsense under right checksums, since most mutations mend them: queries may then be
refused with ValueError, but never crash, hang, or access memory out of bounds.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fuzz_container import (
    VALUES,
    accepted,
    manifest_of,
    mended,
    restructured,
    summed,
    with_manifest,
)

D, C = 2, 3


def check(data: bytes) -> bool:
    """Return whether the bytes are accepted; raise every error that is not documented."""
    import resmem

    verified: list[Any] = []

    def load(path: str, verify: bool) -> Any:
        mem = resmem.Memory.load(path, verify=verify)
        verified[:] = [mem] if verify else []
        return mem

    def look(mem: Any) -> None:
        about = mem.info()
        if verified and about["d"] <= 64 and about["columns"] <= 64:
            kept(mem)
        use(mem)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes of tuning
        return accepted(data, load, look)


def use(mem: Any) -> None:
    """Call everything that reads rows."""
    import numpy as np

    repr(mem)
    about = mem.info()
    if about["d"] > 64 or about["columns"] > 64 or about["k"] > 1000:
        return  # legal, but the arrays below would be large
    queries = np.linspace(-1, 1, 3 * about["d"], dtype=np.float32).reshape(3, -1)
    outputs = np.full((3, about["columns"]), 1 / about["columns"])
    if mem._state.view.rows.flat:
        outputs = outputs[:, 0]
    rows = (queries, None if mem.store == "head" else outputs, [0, 0, 0])
    if mem.task == "regression":
        rows = (queries, outputs, outputs)
    small = {"k": [1], "sigma": [1.0], "strength": [1.0], "folds": 3, "apply": False}
    for call in (
        lambda: mem.correct(queries, outputs, exclude_ids=[0, -1, 2]),
        lambda: mem.predict(queries, outputs),
        lambda: mem.evaluate(*rows),
        lambda: mem.explain(queries, rows[1]),
        lambda: mem.tune(*rows, **small),
        lambda: mem.tune(loo=True, **small),
        lambda: mem.remove([1]),
        lambda: mem.add(*rows),
        lambda: mem.correction(queries, threads=1),
    ):
        with contextlib.suppress(ValueError):  # says what is wrong with the rows
            call()
    if mem._state._compactor is not None:
        mem._state._compactor.join()


def kept(mem: Any) -> None:
    """Check that a verified memory can be saved, exported and loaded, before and after changes.

    A file may refuse to be appended to any more.
    """
    import resmem

    def back(name: str) -> Any:
        twin = resmem.Memory.load(os.path.join(folder, name))
        assert ids_of(twin) == ids_of(mem)
        assert len(set(ids_of(twin))) == len(twin)
        return twin

    with tempfile.TemporaryDirectory() as folder:
        mem.save(os.path.join(folder, "new"))
        for name in ("e.npz", "e.safetensors"):
            mem.export(os.path.join(folder, name))
            try:
                back(name)
            except resmem.FileFormatError as error:  # exports have all their values checked
                if "NaN or infinity" not in str(error):
                    raise
        mem = back("new")
        for change in (lambda: mem.remove(ids_of(mem)[:1]), lambda: again(mem)):
            with contextlib.suppress(ValueError):  # ids may have run past int64
                change()
            mem.save(os.path.join(folder, "new"), append=True)
            back("new")
        back("new").save(os.path.join(folder, "new"))
        back("new")


def again(mem: Any) -> None:
    """Add two rows that make sense."""
    import numpy as np

    about = mem.info()
    outputs = np.full((2, about["columns"]), 1 / about["columns"])
    values = outputs[:, 0] if mem._state.view.rows.flat else outputs
    targets = np.zeros(2, dtype=np.int64) if mem.task == "classification" else values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # e.g. that logits look like probabilities
        mem.add(np.ones((2, about["d"])), None if mem.store == "head" else values, targets)


def ids_of(mem: Any) -> list[int]:
    rows = mem._state.view.rows
    return [int(i) for s in rows.segments for i in s.ids_of(s.living(rows.version))]


def redescribed(data: bytes, rng: random.Random) -> bytes:
    """Return the file with one value of ``meta`` replaced or removed, and right checksums."""
    try:
        fields = json.loads(manifest_of(data))
        place: Any = fields["meta"]
        while True:
            at = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not (isinstance(place[at], (dict, list)) and place[at]) or rng.random() < 0.1:
                break
            place = place[at]
        if rng.random() < 0.1:
            del place[at]
        elif type(place[at]) is int and rng.random() < 0.5:
            place[at] += rng.choice([-2, -1, 1, 2])
        else:
            place[at] = rng.choice([*VALUES, "auto", "inf", "head", "sparse:1", "dense", -2, 3])
        return with_manifest(data, json.dumps(fields).encode())
    except (ValueError, LookupError, TypeError):
        return mended(data)


def refilled(data: bytes, rng: random.Random) -> bytes:
    """Return the file with some bytes of the rows changed, and right checksums."""
    try:
        fields = json.loads(manifest_of(data))
        changed = bytearray(data)
        section = rng.choice(fields["sections"])
        for _ in range(rng.randrange(1, 9)):
            at = section["offset"] + rng.randrange(max(1, section["length"]))
            changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        mended_data = summed(bytes(changed), fields["sections"])
        return with_manifest(mended_data, json.dumps(fields).encode())
    except (ValueError, LookupError, TypeError, AttributeError):
        return mended(data)


MUTATIONS = (restructured, redescribed, refilled)


def seeds() -> dict[str, bytes]:
    """Return the file of a small memory of every store and key type."""
    import tempfile

    import numpy as np

    import resmem

    rng = np.random.default_rng(0)
    head = (rng.standard_normal((C, D)), rng.standard_normal(C))
    kinds: dict[str, dict[str, Any]] = {
        "dense": {},
        "sparse": {"store": "sparse:1", "key_dtype": "float16", "residual_dtype": "float16"},
        "head": {"store": "head", "key_dtype": "bfloat16", "head": head, "base": {"a": [1]}},
        "regression": {"task": "regression", "sigma": 0.5},
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in kinds.items():
            path = os.path.join(folder, name)
            mem = resmem.Memory(k=2, **options)
            keys = rng.standard_normal((4, D))
            outputs: Any = rng.standard_normal((4, C))
            targets: Any = np.array([0, 1, 2, 1])
            if name == "regression":
                targets = outputs * 2
            if name == "head":
                outputs = None
            mem.fit(keys, outputs, targets, ids=[5, 3, 8, 2])
            mem.add(keys, outputs, targets).remove([3, 9]).save(path)
            with open(path, "rb") as file:
                found[name] = file.read()
        rows = keys, outputs, np.array([0, 1, 2, 1])
        mem = resmem.Memory(k=2).fit(*rows)  # counted ids, some of them removed and retired
        mem.remove([1]).save(path).add(*rows).remove([2, 5])
        mem.save(path, append=True)
        with open(path, "rb") as file:
            found["appended"] = file.read()
    return found


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["resmem"]):
        import resmem  # noqa: F401

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        kind = rng.randrange(6)
        if kind < 3:
            return MUTATIONS[kind](data, rng)[:max_size]
        if kind == 3:
            manifest = manifest_of(data) or b"{}"
            return with_manifest(data, atheris.Mutate(manifest, len(manifest) + 256))[:max_size]
        changed = atheris.Mutate(data, max_size)
        return (changed if kind == 4 else mended(changed))[:max_size]

    def one_input(data: bytes) -> None:
        check(data)

    atheris.Setup(sys.argv, one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
