"""The search on a device as tests call it: rows, and results with their counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

DTYPES = {"float32": "float32", "float16": "float16", "uint16": "bfloat16", "float64": "float64"}
FORCED = ("first_phase", "capacity", "queries", "slab_rows")


@dataclass
class SearchedDevice:
    """A device, and others that the same module drives."""

    module: Any
    ordinal: int

    def rows(
        self, keys, metric="euclidean", ids=None, first_id=0, least_coded=1, dtype=None,
        most_bytes=None, ordinal=None,
    ):  # fmt: skip
        """Return rows that stay on a device, as many as `most_bytes` of it hold."""
        made = self.module.Rows(
            self.ordinal if ordinal is None else ordinal, dtype or DTYPES[str(keys.dtype)],
            keys.shape[1], metric, None, least_coded,
        )  # fmt: skip
        made.extend(keys, ids, first_id, most_bytes)
        return made

    def search(self, queries, /, segments, k, metric="euclidean", **options):
        """Return values, ids, positions and counters; segments are rows, or rows and a count."""
        counted = [s if isinstance(s, tuple) else (s, len(s)) for s in segments]
        starts = np.cumsum([0, *(n for _, n in counted)])
        placed = [(rows, n, start) for (rows, n), start in zip(counted, starts, strict=False)]
        forced = {name: options.pop(name) for name in FORCED if name in options}
        shape = (len(queries), k)
        out = {name: np.empty(shape, np.int64) for name in ("ids", "positions")}
        values = np.empty(shape)
        stats = self.module.search(
            queries, placed, k, metric, options.pop("excluded", None), options.pop("version", 0),
            values=values, **out, device=options.pop("device", self.ordinal),
            forced=self.module.ForcedSearch(**forced), counted=True, **options,
        )  # fmt: skip
        return values, out["ids"], out["positions"], stats
