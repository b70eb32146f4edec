"""The answers of `resmem predict`, block by block of queries."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from resmem._files.formats import Rows
from resmem._memory import Memory
from resmem.adapters.progress import Step

from . import inputs
from .outputs import Block

_BLOCK_BYTES = 64 << 20  # for the inputs and results of a block
_BLOCK_ROWS = 16384  # most queries in a block, so that the progress bar moves


class Queries:
    """Queries in files, and a memory's answers to them."""

    def __init__(self, memory: Memory, options: Namespace) -> None:
        self._memory, self._what = memory, options.what
        self._settings: dict[str, Any] = {"threads": options.threads}
        if options.columns is not None:
            if self._what not in ("proba", "correct", "correction"):
                raise ValueError("--columns goes with --what proba, correct or correction")
            self._settings["columns"] = inputs.array(options.columns, "columns")
        if self._what == "proba" and memory.task != "classification":
            raise ValueError("--what proba is for classification; --what predict gives values")
        self._embeddings = inputs.rows(options.embeddings, "embeddings")
        uses_outputs = self._what in ("predict", "proba", "correct")
        without = memory.store == "head" or memory.output_kind == "none"
        if uses_outputs and options.outputs is None and not without:
            raise ValueError(f"--outputs is missing: {self._what} needs the base model's outputs")
        self._outputs: Rows | None = None
        if uses_outputs and options.outputs is not None:
            self._outputs = self._beside(inputs.rows(options.outputs, "outputs"), "outputs")
        self._asks: dict[str, Rows] = {}  # with an entry for each query
        for name in inputs.PER_QUERY:
            value = inputs.per_query(getattr(options, name), name)
            if value is not None and np.ndim(value) == 0:
                self._settings[name] = value
            elif value is not None:
                self._asks[name] = self._beside(value, name)
        self._settings["among"] = inputs.among(options)
        if uses_outputs and options.base is not None:
            self._settings["base"] = options.base
        self.empty = self._answer(slice(0, 0))  # the layout of every block

    def __len__(self) -> int:
        return len(self._embeddings)

    def answers(self, step: Step) -> Iterator[Block]:
        """Yield every answer in order; ``step`` is called with the number of rows done."""
        size = self._block_rows()
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            try:
                block = self._answer(slice(start, stop))
            except ValueError as error:
                if start:  # the message numbers rows within the block
                    error.args = (f"{error} (counting from query {start})",)
                raise
            yield block
            step(stop - start)

    def _beside(self, rows: Rows, option: str) -> Rows:
        if len(rows) != len(self):
            raise ValueError(
                f"{option} must have one row per row of embeddings ({len(self)}), got {len(rows)}"
            )
        return rows

    def _answer(self, rows: slice) -> Block:
        settings = {**self._settings, **{name: asked[rows] for name, asked in self._asks.items()}}
        keys = self._embeddings[rows]
        if self._what == "neighbors":
            distances, ids = self._memory.kneighbors(keys, **settings)
            return {"distances": distances, "ids": ids}
        if self._what == "correction":
            return {"correction": self._memory.correction(keys, **settings)}
        methods: dict[str, Callable[..., Any]] = {
            "predict": self._memory.predict,
            "proba": self._memory.predict_proba,
            "correct": self._memory.correct,
        }
        base = None if self._outputs is None else self._outputs[rows]
        return {self._what: methods[self._what](keys, base, **settings)}

    def _block_rows(self) -> int:
        """Return the number of queries in a block, by the bytes that each of them takes."""
        arrays = [self._embeddings, *self.empty.values()]
        if self._outputs is not None:
            arrays.append(self._outputs)
        row = sum(8 * math.prod(part.shape[1:]) for part in arrays) + 24 * self._memory.k
        return max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // row))
